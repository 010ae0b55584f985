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
            println!("vial-vmm {} (Firecracker API v{})", env!("CARGO_PKG_VERSION"), vmm::http::API_VERSION);
            0
        }
        Ok(Action::SnapshotVersion) => {
            eprintln!("vial-vmm: this version has no snapshots");
            vmm::api::status::ExitReason::BadConfig.code()
        }
        Err(error) => {
            eprintln!("vial-vmm: error: {error}");
            vmm::api::status::ExitReason::BadConfig.code()
        }
    };
    std::process::exit(code);
}
