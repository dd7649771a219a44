//! The container image that `scripts/image` makes: a layout that names its parts truly, the same bytes each time, and
//! everything in it that the executables need.
#![forbid(unsafe_code)]

use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use wherry_tests::binary::{controller_bin, wherry_bin};

/// Runs a command, which must succeed; what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An image made of the executables under test.
fn image(folder: &TempDir, name: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/image");
    let (tar, wherry) = (folder.path().join(name), wherry_bin());
    assert_eq!(wherry.parent(), controller_bin().parent());
    let binaries = wherry.parent().unwrap().to_str().unwrap();
    run(script, &["--binaries", binaries, "--output", tar.to_str().unwrap(), "--name", "wherry.test/wherry:1"]);
    tar
}

/// The content of what a descriptor names, which must be what it says.
fn part(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let path = layout.join("blobs/sha256").join(digest);
    let sum = run("sha256sum", &[path.to_str().unwrap()]);
    assert!(sum.starts_with(digest), "{descriptor} is {sum}");
    assert_eq!(descriptor["size"], fs::metadata(&path).unwrap().len(), "{descriptor}");
    path
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_image_is_reproducible_and_its_executables_run_with_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let tar = image(&folder, "first.tar");
    let again = image(&folder, "second.tar");
    run("cmp", &[tar.to_str().unwrap(), again.to_str().unwrap()]);
    fs::remove_file(&again).unwrap();

    let layout = folder.path().join("layout");
    fs::create_dir(&layout).unwrap();
    run("tar", &["-xf", tar.to_str().unwrap(), "-C", layout.to_str().unwrap()]);
    fs::remove_file(&tar).unwrap();
    let index = json(&layout.join("index.json"));
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "wherry.test/wherry:1");
    let manifest = json(&part(&layout, &index["manifests"][0]));
    let config = json(&part(&layout, &manifest["config"]));
    let layer = part(&layout, &manifest["layers"][0]);
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    assert_eq!(config["config"]["User"], "65532:65532");

    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    run("tar", &["-xf", layer.to_str().unwrap(), "-C", root.to_str().unwrap()]);
    // Whoever else there is in a pod must not be able to change what is run.
    for path in ["", "usr/bin/wherry", "usr/bin/wherry-controller", "etc/ssl/certs/ca-certificates.crt"] {
        let metadata = fs::metadata(root.join(path)).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o022), (0, 0), "/{path}");
    }
    let mode = fs::metadata(&root).unwrap().mode() | 0o055;
    fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    // With nothing of this machine but its kernel, as the user of the image.
    for program in ["/usr/bin/wherry", "/usr/bin/wherry-controller"] {
        let said = run("chroot", &["--userspec=65532:65532", root.to_str().unwrap(), program, "--version"]);
        assert!(said.starts_with(program.rsplit('/').next().unwrap()), "{said}");
    }
}

/// Unpacks a tar into a new folder.
fn unpacked(folder: &TempDir, tar: &Path, name: &str) -> PathBuf {
    let to = folder.path().join(name);
    fs::create_dir(&to).unwrap();
    run("tar", &["-xf", tar.to_str().unwrap(), "-C", to.to_str().unwrap()]);
    to
}

#[test]
fn images_of_two_architectures_become_one_index_and_two_of_one_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts");
    fs::write(at("program"), "of no machine").unwrap();
    for machine in ["x86_64", "aarch64"] {
        let file = format!("{}:/usr/bin/program", at("program"));
        run(&format!("{scripts}/lib/oci_image.py"), &[&at(machine), "one:1", "--machine", machine, "--file", &file]);
    }
    let join = |tars: [&str; 2]| {
        let mut arguments = vec!["--output".to_owned(), at("both"), "--name".into(), "wherry.test/both:1".into()];
        arguments.extend(tars.iter().flat_map(|tar| ["--join".to_owned(), at(tar)]));
        Command::new(format!("{scripts}/image")).args(arguments).output().unwrap()
    };
    assert!(join(["x86_64", "aarch64"]).status.success());

    let layout = unpacked(&folder, &folder.path().join("both"), "layout");
    let index = json(&layout.join("index.json"));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "wherry.test/both:1");
    let inner = json(&part(&layout, &index["manifests"][0]));
    let manifests = inner["manifests"].as_array().unwrap();
    let machines: Vec<_> =
        manifests.iter().map(|manifest| manifest["platform"]["architecture"].as_str().unwrap()).collect();
    assert_eq!(machines, ["amd64", "arm64"]);
    for manifest in manifests {
        let manifest_itself = json(&part(&layout, manifest));
        assert_eq!(
            json(&part(&layout, &manifest_itself["config"]))["architecture"],
            manifest["platform"]["architecture"]
        );
        part(&layout, &manifest_itself["layers"][0]);
    }

    for wrong in [["x86_64", "x86_64"], ["x86_64", "program"], ["x86_64", "both"]] {
        let output = join(wrong);
        assert!(!output.status.success(), "{wrong:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(&at(wrong[1])),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
