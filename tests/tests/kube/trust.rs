//! A BackupStorageLocation on a server with a certificate of its own authority: trusted by `caCert`, by `caCertRef`, unchecked by
//! `insecureSkipTLSVerify`, and else nothing is sent there.

use crate::agent::{MIB, disk, snapshot_of};
use crate::stand_on;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use wherry_api::api::Kind;
use wherry_api::job::State;
use wherry_repo::ErrorKind;
use wherry_tests::authority::Authority;
use wherry_tests::block_service::base64;
use wherry_tests::hosted::{Device, Hosted};
use wherry_tests::seaweed::{Extras, Seaweed};

#[test]
fn the_authority_of_a_location_is_trusted_or_nothing_is_sent() {
    let (authority, stranger) = (Authority::make(), Authority::make());
    let server = Seaweed::start_with(&Extras {
        tls: Some((authority.path("server.pem"), authority.path("server.key"))),
        ..Extras::default()
    });
    let url = format!("https://127.0.0.1:{}", server.https_port());
    let stand = stand_on(Arc::new(server), "agent-trust");
    // What may pass is tried again for so long.
    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &json!({ "data": { "itemTimeout": "1s" } }));
    let agent = stand.agent();
    let file = disk(&stand, "disk", 16, 4);
    let pem = |of: &Authority| fs::read_to_string(of.path("ca.pem")).unwrap();
    let inline = |text: &str| json!({ "caCert": base64(text.as_bytes()) });
    let reference = |name: &str| json!({ "caCertRef": { "name": name, "key": "ca.crt" } });
    for (name, text) in [("ours", pem(&authority)), ("junk", "junk".to_owned())] {
        stand.create(Kind::Secret, json!({ "metadata": { "name": name }, "stringData": { "ca.crt": text } }));
    }
    let upload = |name: &str, trust: Value, unchecked: Option<&str>| -> (Hosted, Device) {
        let mut storage = json!({ "bucket": "velero", "prefix": stand.namespace });
        storage.as_object_mut().unwrap().extend(trust.as_object().unwrap().clone());
        let mut config = json!({ "s3Url": url, "region": "us-east-1", "s3ForcePathStyle": "true" });
        if let Some(unchecked) = unchecked {
            config["insecureSkipTLSVerify"] = json!(unchecked);
        }
        stand.location(name, json!({ "objectStorage": storage, "config": config }));
        let hosted = stand.upload(name, "Block", 16 * MIB);
        stand.patch(&hosted.key, &json!({ "spec": { "backupStorageLocation": name } }));
        let device = stand.publish(&hosted, &file);
        stand.prepared(&hosted);
        (hosted, device)
    };

    let next = "give the authority that signed it: --s3-ca-file, caCert or caCertRef";
    let refused = [
        ("nobody", json!({}), None, next),
        ("checked", json!({}), Some("false"), next),
        ("stranger", inline(&pem(&stranger)), None, next),
        ("no-pem", inline("junk"), None, "no-pem: caCert holds no usable certificates (PEM)"),
        ("no-secret", reference("gone"), None, "there is no Secret gone with key \"ca.crt\" (caCertRef)"),
        (
            "junk",
            reference("junk"),
            None,
            "key \"ca.crt\" of Secret junk (caCertRef) holds no usable certificates (PEM)",
        ),
    ]
    .map(|(name, trust, unchecked, words)| (name, words, upload(name, trust, unchecked)));
    for (name, words, (hosted, _device)) in &refused {
        let cr = stand.until(hosted, &agent, &["Failed"]);
        let message = cr["status"]["message"].as_str().unwrap();
        let named = message.contains(&format!("BackupStorageLocation {name}"));
        assert!(named && message.contains(words) && !message.contains("/proc/"), "{message}");
    }
    assert!(stand.repository_key().is_null(), "a key was made");
    // A bucket comes into being by the first write.
    let listed = stand.storage().list("", &mut |_| Ok(()));
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::NoRepository);

    for (name, trust) in [("inline", inline(&pem(&authority))), ("reference", reference("ours"))] {
        let (hosted, _device) = upload(name, trust, None);
        stand.until(&hosted, &agent, &["Completed"]);
    }
    assert!(!agent.log().contains("is not checked"), "{}", agent.log());
    let (hosted, _device) = upload("unchecked", json!({}), Some("true"));
    let cr = stand.until(&hosted, &agent, &["Completed"]);
    agent.says("is not checked (--s3-skip-verify, config key insecureSkipTLSVerify");
    agent.end();

    // Jobs read the same Secret by an account of their own.
    stand.available("reference");
    let looked = stand.job_by(&[], "forget", "reference", &[]).ok();
    assert_eq!((looked.state, looked.forgetting.unwrap().waiting), (State::Done, 3));
    let home = stand.outside();
    home.run(&["restore", &snapshot_of(&cr).session, &home.text("back")]).ok();
    assert!(fs::read(home.path("back")).unwrap() == fs::read(&file).unwrap(), "it is another disk");
}
