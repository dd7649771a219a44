//! A server that is reached by HTTPS: its certificate is trusted when the authority that signed it is named, and else
//! nothing is sent to it.

use super::{MIB, has};
use std::fs;
use std::path::Path;
use std::process::Command;
use wherry_tests::authority::{Authority, DOMAIN};
use wherry_tests::home::Home;
use wherry_tests::seaweed::{Extras, Seaweed, variables_for};
use wherry_tests::small::noise;

#[test]
fn a_certificate_is_trusted_by_its_authority_or_not_at_all() {
    let (authority, stranger) = (Authority::make(), Authority::make());
    let server = Seaweed::start_with(&Extras {
        tls: Some((authority.path("server.pem"), authority.path("server.key"))),
        domain: Some(DOMAIN.to_owned()),
        ..Extras::default()
    });
    let endpoint = |host: &str| format!("https://{host}:{}", server.https_port());
    let secure = [("AWS_ENDPOINT_URL", endpoint("127.0.0.1"))];
    let home = Home::new().at("s3://tls/x", &variables_for(server.port())).at("s3://tls/x", &secure);
    let (ours, theirs) = (authority.text("ca.pem"), stranger.text("ca.pem"));
    let refused = |args: &[&str]| {
        for by in [&[][..], &["--s3-ca-file", &theirs]] {
            has(&home.run(&[args, by].concat()).ends(12), &["s3://tls/x", "certificate", "--s3-ca-file"]);
        }
    };
    refused(&["init"]);
    assert!(!home.path("key").exists(), "a key was made for nothing");
    home.run(&["init", "-q", "--s3-ca-file", &ours]).ok();
    let disk = noise(80, 3 * MIB + 5);
    home.write("disk", &disk);
    home.run(&["backup", "disk", "--name", "vm", "--s3-ca-file", &ours]).ok();
    refused(&["snapshots"]);
    refused(&["backup", "disk", "--name", "vm"]);

    let restored = |mut command: Command| {
        let _ = fs::remove_file(home.path("out"));
        let ran = home.ran(command.args(["restore", "latest", "out", "--retry-for", "2s"]).output().unwrap());
        assert!(ran.code != 0 || fs::read(home.path("out")).unwrap() == disk);
        ran
    };
    let with_bundle = |bundle: &str| {
        let mut command = home.command();
        command.env("AWS_CA_BUNDLE", bundle);
        command
    };
    restored(with_bundle(&ours)).ok();
    has(&restored(with_bundle(&theirs)).ends(12), &["certificate", "--s3-ca-file"]);
    // The flag wins.
    let mut command = with_bundle(&theirs);
    command.args(["--s3-ca-file", &ours]);
    restored(command).ok();

    let ran = home.run(&["check", "--read-data", "--s3-skip-verify"]).ok();
    has(&ran.stderr, &["WARN", "--s3-skip-verify", "can read credentials"]);
    assert!(!home.run(&["check", "--s3-ca-file", &ours]).ok().stderr.contains("WARN"));

    // A name that the certificate is not for, and the bucket's own, which it is for.
    let hosts = home.write("hosts", format!("127.0.0.1 tls.{DOMAIN} other.test\n"));
    let named = |host: &str, args: &[&str]| {
        let mut command = home.command_with_bound(&[(hosts.as_ref(), Path::new("/etc/hosts"))]);
        command.args(["--s3-ca-file", &ours, "--s3-endpoint", &endpoint(host)]).args(args);
        restored(command)
    };
    has(&named("other.test", &[]).ends(12), &["certificate not valid for name", "other.test", "--s3-endpoint"]);
    named(DOMAIN, &["--s3-virtual-host"]).ok();
}

#[test]
fn a_file_of_authorities_that_is_none_is_2_and_named() {
    let home = Home::new().at("s3://tls/x", &variables_for(1));
    let authority = Authority::make();
    let pem = fs::read_to_string(authority.path("ca.pem")).unwrap();
    let body = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("junk", noise(81, 5000)),
        ("server.key", fs::read(authority.path("server.key")).unwrap()),
        ("cut", pem[..pem.len() / 2].into()),
        ("garbled", body("%%%%").into()),
        ("no-certificate", body("AAAA").into()),
        ("second-is-none", (pem.clone() + &body("AAAA")).into()),
    ] {
        home.write(name, bytes);
        has(&home.run(&["snapshots", "--s3-ca-file", name]).fails(2), &[name, "--s3-ca-file", "PEM"]);
        let ran = home.ran(home.command().env("AWS_CA_BUNDLE", name).args(["backup", name]).output().unwrap());
        has(&ran.ends(2), &[name, "PEM"]);
    }
    has(&home.run(&["init", "--s3-ca-file", "none"]).fails(2), &["none", "--s3-ca-file", "No such file"]);
    // A machine that trusts nobody.
    let mut command = home.command();
    command.env("SSL_CERT_FILE", home.path("empty")).env("SSL_CERT_DIR", home.path("none")).arg("snapshots");
    has(&home.ran(command.output().unwrap()).fails(2), &["install ca-certificates", "--s3-ca-file"]);
}
