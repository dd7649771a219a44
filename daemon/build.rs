//! Gives the executable its build id. A build without git, or outside a clone, is fine: the version stands alone then.

use std::path::Path;
use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WHERRY_BUILD");
    // The reflog grows with every commit and checkout. One outside the clone (a linked work tree has it there) is left
    // alone: the tests take an executable with sources elsewhere for that of another clone.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let log = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]);
    if let (Some(root), Some(log)) = (root, log)
        && Path::new(&log).starts_with(root)
    {
        println!("cargo::rerun-if-changed={log}");
    }
    let build = std::env::var("WHERRY_BUILD").ok().or_else(|| git(&["describe", "--always", "--tags"]));
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    match build.filter(|b| !b.is_empty()) {
        Some(build) => println!("cargo::rustc-env=WHERRY_VERSION={version} ({build})"),
        None => println!("cargo::rustc-env=WHERRY_VERSION={version}"),
    }
}
