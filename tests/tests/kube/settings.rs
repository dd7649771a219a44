//! ConfigMap `wherry` that is not there: for a moment, as `kubectl replace --force` has it, or when the processes begin.

use crate::agent::{MIB, disk};
use crate::metrics::{ask, samples, until_ok};
use crate::replicas::Replica;
use crate::seaweed;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wherry_api::api::{Api, Key, Kind};
use wherry_api::names;
use wherry_tests::cluster::real::{Real, deployed};
use wherry_tests::hosted::{NODE, PATIENCE, Stand};
use wherry_tests::kube::Kube;
use wherry_tests::server::free_ports;

#[test]
fn settings_that_are_gone_for_a_moment_stay_in_force() {
    // A server of its own: nodes are of the cluster, and scenes take all of them for theirs.
    let real = Arc::new(Real::new(Arc::new(Kube::start())));
    let stand = Stand::new(Arc::clone(&real), seaweed(), "settings-gone");
    let admin = stand.kube.admin();
    let n1 = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE } });
    stand.kube.wait(admin.create(&Key::new(Kind::Node, "", NODE), &n1)).unwrap();
    stand.kube.apply(&deployed("wherry-controller", &stand.namespace));
    // Jobs would be made for it.
    stand.repository();
    let [controller, node] = free_ports().map(|port: u16| format!("127.0.0.1:{port}"));
    let key = stand.key(Kind::ConfigMap, "wherry");
    // No agent's pod is on that node, which is none of this.
    let set = json!({
        "datamovers": "theirs", "uploadRate": "100000", "forgetInterval": "0", "gcInterval": "0", "nodeLostTimeout": "10h",
    });
    stand.patch(&key, &json!({ "data": set }));
    let data = stand.get(&key)["data"].clone();
    let agent = stand.agent_with(&[], &["--health", &node]);
    let hosted = stand.upload("long", "Block", 128 * MIB);
    stand.patch(&hosted.key, &json!({ "spec": { "datamover": "theirs" } }));
    let labels = json!({ names::CR_UID: hosted.uid, names::VELERO_NAMESPACE: stand.namespace });
    stand.patch(&stand.key(Kind::Claim, &hosted.object), &json!({ "metadata": { "labels": labels } }));
    let _device = stand.publish(&hosted, &disk(&stand, "disk", 128, 120));
    stand.prepared(&hosted);
    stand.when(&hosted, &agent, "InProgress", |cr| cr["status"]["phase"] == "InProgress");
    // What the controller made before is played, so it begins only now.
    let replica = Replica::start_with(&real, &stand.namespace, "only", &["--image", "w", "--health", &controller]);
    let log = || format!("{}\n{}", replica.log(), agent.log());
    let good = |address: &str| samples(&ask(address, "/metrics").unwrap().1)["wherry_settings_good"];
    for address in [&controller, &node] {
        until_ok(address, "/readyz", log);
        assert_eq!(good(address), 1.0);
    }

    let goes_on = || {
        let cr = stand.get(&hosted.key);
        assert_eq!(cr["status"]["phase"], "InProgress", "{}", cr["status"]);
        assert_eq!(stand.jobs(), Vec::<Value>::new());
    };
    stand.delete(&key, false);
    // Both look once a minute.
    let begin = Instant::now();
    while good(&controller) != 0.0 || good(&node) != 0.0 {
        goes_on();
        assert!(begin.elapsed() < PATIENCE, "nobody has looked:\n{}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
    replica.wait_for("there is no ConfigMap wherry; the settings before stay");
    agent.says("there is no ConfigMap wherry; the settings before stay");
    // What would follow is done by now.
    std::thread::sleep(Duration::from_secs(2));
    goes_on();
    let (output, text) = replica.end();
    assert!(output.status.success(), "{output:?}\n{text}");
    agent.end();

    // Whoever begins meanwhile knows of none, and waits.
    let replica = Replica::start_with(&real, &stand.namespace, "next", &["--image", "w", "--health", &controller]);
    let agent = stand.agent_with(&[], &["--health", &node]);
    replica.wait_for("there is no ConfigMap wherry; nothing is done until there is one");
    agent.says("there is no ConfigMap wherry; nothing is done until there is one");
    for address in [&controller, &node] {
        assert_eq!(ask(address, "/readyz").unwrap().0, 503, "{address}");
        assert_eq!(good(address), 0.0);
    }
    std::thread::sleep(Duration::from_secs(2));
    goes_on();
    stand.create(Kind::ConfigMap, json!({ "metadata": { "name": "wherry" }, "data": data }));
    for address in [&controller, &node] {
        until_ok(address, "/readyz", || format!("{}\n{}", replica.log(), agent.log()));
        assert_eq!(good(address), 1.0);
    }
    goes_on();
    let (output, text) = replica.end();
    assert!(output.status.success(), "{output:?}\n{text}");
    agent.end();
}
