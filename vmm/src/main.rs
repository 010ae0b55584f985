//! `vial-vmm`: one process is one microVM. See docs/vmm.md.

use vmm::args::{self, Action};

fn main() {
    let code = match args::parse(std::env::args_os().skip(1)) {
        Ok(Action::Run(options)) => vmm::process::run(&options),
        Ok(Action::Help) => {
            print!("{}", args::HELP);
            0
        }
        Ok(Action::Version) => {
            println!("vial-vmm {}", env!("CARGO_PKG_VERSION"));
            0
        }
        Err(error) => {
            eprintln!("vial-vmm: error: {error}");
            vmm::api::status::ExitReason::BadConfig.code()
        }
    };
    std::process::exit(code);
}
