//! What `controller/deploy` puts into a cluster, taken by a real API server, and compared with the code.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use wherry_api::api::{Api, Key, Kind};
use wherry_api::names;
use wherry_api::settings::{CONFIG_MAP, ENTRIES, Settings};
use wherry_tests::cluster::real::deployed;
use wherry_tests::kube::Kube;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../controller/deploy");

/// What is applied by hand.
const INSPECT: &str = "inspect.yaml";

/// What is made once: were it in the base, deleting that would delete the key.
const KEY: &str = "key.yaml";

/// The files that the kustomize base names; every other YAML file beside it is one of them.
fn files() -> BTreeMap<String, String> {
    let base = fs::read_to_string(Path::new(FOLDER).join("kustomization.yaml")).unwrap();
    let names = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> =
        names.filter(|n| n.ends_with(".yaml") && n != "kustomization.yaml" && n != INSPECT && n != KEY).collect();
    assert!(
        !base.lines().any(|line| line.trim() == format!("- {KEY}")),
        "`kubectl delete -k` would take the key along"
    );
    names
        .into_iter()
        .map(|name| {
            assert!(base.lines().any(|line| line.trim() == format!("- {name}")), "the base does not name {name}");
            let text = fs::read_to_string(Path::new(FOLDER).join(&name)).unwrap();
            (name, text.replace("namespace: velero", "namespace: deploy"))
        })
        .collect()
}

fn get(kube: &Kube, path: &str) -> Value {
    kube.ask(reqwest::Method::GET, path, None).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_server_takes_every_file_and_the_code_agrees_with_them() {
    let real = crate::real();
    let kube = &real.kube;
    kube.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: deploy\n");
    let files = files();
    assert!(files.len() >= 4, "{:?}", files.keys());
    for (name, text) in &files {
        // The rights are applied for all suites, and looked at by `rights`.
        if name != "rbac.yaml" {
            kube.apply(text);
        }
    }

    // Who runs as an account needs one that is there.
    kube.apply(&deployed("wherry-agent", "deploy"));
    let inspect = fs::read_to_string(Path::new(FOLDER).join(INSPECT)).unwrap();
    let inspect = kube.rehearse(&inspect.replace("namespace: velero", "namespace: deploy")).remove(0);
    assert_eq!(inspect["spec"]["serviceAccountName"], "wherry-agent");
    // The account's token is for the image of wherry alone, and no admission mounts it elsewhere.
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let has_token =
        |volume: &Value| array(&volume["projected"]["sources"]).iter().any(|s| s["serviceAccountToken"].is_object());
    let tokens: Vec<Value> = array(&inspect["spec"]["volumes"]).into_iter().filter(has_token).collect();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    let containers = ["initContainers", "containers"].map(|kind| array(&inspect["spec"][kind])).concat();
    let mounts_it =
        |container: &Value| array(&container["volumeMounts"]).iter().any(|m| m["name"] == tokens[0]["name"]);
    let with_it: Vec<&Value> = containers.iter().filter(|c| mounts_it(c)).map(|c| &c["name"]).collect();
    assert_eq!((containers.len(), with_it), (3, vec![&Value::from("mount")]));
    // A new emptyDir has no folder, and the image of wherry nothing to make one with.
    let mounts_at = &inspect["spec"]["containers"][0]["command"][2];
    assert!(mounts_at.as_str().unwrap().starts_with("/mnt/"));
    assert_eq!(inspect["spec"]["initContainers"][0]["command"], serde_json::json!(["mkdir", "-p", mounts_at]));

    // The ConfigMap says every setting, with the default that the code has.
    let map = kube.wait(kube.admin().get(&Key::new(Kind::ConfigMap, "deploy", CONFIG_MAP))).unwrap().unwrap();
    let data: BTreeMap<String, String> = serde_json::from_value(map["data"].clone()).unwrap();
    let defaults: BTreeMap<String, String> =
        ENTRIES.iter().map(|entry| (entry.key.to_owned(), entry.default.to_owned())).collect();
    assert_eq!(data, defaults);
    let settings = Settings::parse(&data).unwrap_or_else(|wrong| panic!("{wrong:?}"));

    // The component for OpenShift, which the chart's test has a server take, changes what is there.
    let component = fs::read_to_string(Path::new(FOLDER).join("openshift/kustomization.yaml")).unwrap();
    for part in [
        "- scc.yaml",
        "- rights.yaml",
        "path: /data/hostingScc",
        "name: wherry-agent",
        "path: /spec/template/metadata/annotations",
    ] {
        assert!(component.contains(part), "{part:?} is not in {component}");
    }
    assert!(data.contains_key("hostingScc"));

    let component = fs::read_to_string(Path::new(FOLDER).join("local-volumes/kustomization.yaml")).unwrap();
    assert!(component.contains("kind: Component") && component.contains("- rights.yaml"), "{component}");

    // The agents are found by their label, and see the kubelet's folder where the controller says that it is.
    let agents = get(kube, "/apis/apps/v1/namespaces/deploy/daemonsets/wherry-agent");
    let template = &agents["spec"]["template"];
    assert_eq!(template["metadata"]["labels"][names::AGENT_LABEL], "true");
    let container = &template["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let kubelet = mounts.iter().find(|mount| mount["mountPath"] == settings.kubelet_root.as_str()).expect("its mount");
    assert_eq!(kubelet["mountPropagation"], "HostToContainer");
    let volumes = template["spec"]["volumes"].as_array().unwrap();
    let source = volumes.iter().find(|volume| volume["name"] == kubelet["name"]).expect("its volume");
    assert_eq!(source["hostPath"]["path"], settings.kubelet_root.as_str(), "links in it are absolute");

    // Prometheus and the kubelet's probes find both by the name of a port, and it is the one that they answer at.
    let deployment = get(kube, "/apis/apps/v1/namespaces/deploy/deployments/wherry-controller");
    for container in [container, &deployment["spec"]["template"]["spec"]["containers"][0]] {
        assert_eq!(container["ports"][0]["name"], "health");
        let flag = format!("--health=:{}", container["ports"][0]["containerPort"]);
        assert!(container["args"].as_array().unwrap().contains(&flag.as_str().into()), "{container}");
        for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
            assert_eq!(container[probe]["httpGet"]["path"], path, "{container}");
        }
    }

    // Both run as the accounts that rbac.yaml makes, the controller as nobody.
    let controller = get(kube, "/apis/apps/v1/namespaces/deploy/deployments/wherry-controller");
    let controller = &controller["spec"]["template"]["spec"];
    for pod in [&template["spec"], controller] {
        let account = pod["serviceAccountName"].as_str().unwrap();
        let made = format!("kind: ServiceAccount\nmetadata:\n  name: {account}\n");
        assert!(files["rbac.yaml"].contains(&made), "rbac.yaml does not make {account}");
    }
    assert_eq!(controller["securityContext"]["runAsNonRoot"], true);
    let security = &controller["containers"][0]["securityContext"];
    assert_eq!(security["capabilities"]["drop"][0], "ALL");
    assert_eq!(security["allowPrivilegeEscalation"], false);
}

/// The example of a second install renames all that is not in a namespace, and gives its agents a folder of their own.
#[test]
fn a_second_install_by_kustomize_shares_no_name() {
    let example = fs::read_to_string(Path::new(FOLDER).join("../examples/second-install/kustomization.yaml")).unwrap();
    let lines: Vec<&str> = example.lines().map(str::trim).collect();
    let renames = |kind: &str, name: &str| {
        lines.windows(2).any(|pair| {
            let target = pair[0].strip_prefix("- target: {kind: ").and_then(|rest| rest.strip_suffix('}'));
            target.and_then(|target| target.split_once(", name: ")).is_some_and(|(kinds, of)| {
                of == name
                    && kinds.split('|').any(|each| each == kind)
                    && pair[1].contains("\"path\": \"/metadata/name\"")
                    && pair[1].contains(&format!("\"{name}-second\""))
            })
        })
    };
    let (mut renamed, mut folders) = (0, 0);
    for (file, text) in files() {
        for object in text.split("\n---") {
            let field = |name: &str| object.lines().find_map(|line| line.strip_prefix(name));
            let kind = field("kind: ").unwrap_or_default();
            if matches!(kind, "ClusterRole" | "ClusterRoleBinding" | "PriorityClass") {
                let name = field("  name: ").unwrap();
                assert!(renames(kind, name), "{file}: {kind} {name}");
                renamed += 1;
            }
            if kind == "DaemonSet" {
                let volumes: Vec<&str> = object.split("\n        - name: ").collect();
                let paths: Vec<_> = volumes.iter().filter(|volume| volume.contains("hostPath:")).collect();
                assert!(paths[2].starts_with("state\n") && paths[2].contains("path: /var/lib/wherry\n"), "{paths:#?}");
                folders += 1;
            }
        }
    }
    assert_eq!((renamed, folders), (7, 1));
    assert!(example.contains("/spec/template/spec/volumes/2/hostPath/path"));
}
