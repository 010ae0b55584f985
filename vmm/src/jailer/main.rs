//! `vial-jailer`: see docs/jailer.md.

use vmm::jailer::args::{self, Action};

fn main() {
    let code = match args::parse(std::env::args_os().skip(1)) {
        Ok(Action::Help) => {
            print!("{}", args::HELP);
            0
        }
        Ok(Action::Version) => {
            println!("vial-jailer {}", env!("CARGO_PKG_VERSION"));
            0
        }
        Ok(Action::Jail(order)) => match vmm::jailer::run(&order) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("vial-jailer: error: {}", vmm::chain(&error));
                1
            }
        },
        Err(error) => {
            eprintln!("vial-jailer: error: {error}");
            2
        }
    };
    std::process::exit(code);
}
