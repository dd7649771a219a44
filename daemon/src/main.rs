//! The `wherry` executable. Everything is in the library; this only hands over the exit code.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    wherry::run(std::env::args_os()).into()
}
