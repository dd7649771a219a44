//! The Helm chart: the same objects as the kustomize base, taken by a real API server; values do what they say.

use crate::real;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use wherry_api::settings::{ENTRIES, Settings};
use wherry_tests::kube::Kube;

pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../controller/deploy");

/// Environment variable with the path of helm.
const WHERRY_TEST_HELM: &str = "WHERRY_TEST_HELM";

fn helm(arguments: &[&str]) -> Output {
    let Some(tool) = std::env::var_os(WHERRY_TEST_HELM) else {
        panic!("there is no helm to test with ({WHERRY_TEST_HELM} is not set): run scripts/test, which builds one");
    };
    let folder = tempfile::tempdir().unwrap();
    // It has a home of its own: what a user has set there is not looked at.
    Command::new(tool).args(arguments).env_clear().env("HOME", folder.path()).current_dir(FOLDER).output().unwrap()
}

pub fn rendered(namespace: &str, values: &[&str]) -> String {
    let mut arguments = vec!["template", "wherry", "helm", "--namespace", namespace, "--kube-version", "1.34.4"];
    // What is no text is none here either.
    let is_text = |value: &str| !value.ends_with(".enabled=true") && !value.starts_with("controller.replicas=");
    values.iter().for_each(|value| arguments.extend([if is_text(value) { "--set-string" } else { "--set" }, *value]));
    let output = helm(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The objects by kind and name, without what the server adds to each.
fn objects(made: Vec<Value>) -> BTreeMap<(String, String), Value> {
    let bare = |mut object: Value| {
        let meta = object["metadata"].as_object_mut().unwrap();
        ["uid", "creationTimestamp", "managedFields", "resourceVersion"].iter().for_each(|key| drop(meta.remove(*key)));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        ((text(&object["kind"]), text(&object["metadata"]["name"])), object)
    };
    made.into_iter().map(bare).collect()
}

/// Objects of the cluster are there already under their own names.
fn renamed(yaml: &str) -> String {
    yaml.replace("name: wherry", "name: chart")
}

fn get<'a>(objects: &'a BTreeMap<(String, String), Value>, kind: &str, name: &str) -> &'a Value {
    &objects[&(kind.to_owned(), name.to_owned())]
}

#[test]
fn the_chart_makes_what_the_base_makes() {
    let real = real();
    let kube = &real.kube;
    kube.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: charted\n");
    // (That of the scenes is there already.)
    let lint = helm(&["lint", "--strict", "helm"]);
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));

    let base = fs::read_to_string(Path::new(FOLDER).join("kustomization.yaml")).unwrap();
    let files: Vec<&str> = base.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
    assert!(files.len() >= 4, "{files:?}");
    let files = files.iter().map(|name| fs::read_to_string(Path::new(FOLDER).join(name)).unwrap());
    let base = files.collect::<Vec<_>>().join("\n---\n");
    // In another namespace what is of the cluster has another name, so that there may be two installs.
    for (namespace, of_cluster) in [("velero", ""), ("charted", "-charted")] {
        let rendered = rendered(namespace, &[]);
        let names = |text: &str| -> BTreeSet<String> {
            let all = objects(kube.rehearse(&renamed(text)));
            let of_cluster = all.into_iter().filter(|(_, object)| object["metadata"]["namespace"].is_null());
            of_cluster.map(|((kind, name), _)| format!("{kind} {name}")).collect()
        };
        let expected: BTreeSet<String> = names(&base).into_iter().map(|name| name + of_cluster).collect();
        assert!(expected.len() >= 7, "{expected:?}");
        assert_eq!(names(&rendered), expected);
        let made = objects(kube.rehearse(&renamed(&rendered)));
        for ((kind, name), object) in made.iter().filter(|((kind, _), _)| kind == "ClusterRoleBinding") {
            assert_eq!(object["roleRef"]["name"].as_str(), Some(name.as_str()), "{kind} {name}");
        }
        let priority = &get(&made, "DaemonSet", "chart-agent")["spec"]["template"]["spec"]["priorityClassName"];
        assert_eq!(*priority, format!("wherry-agent{of_cluster}"));
        // Agents of two installs on one node do not meet at the lock; what a node has of its own they share.
        let volumes = &get(&made, "DaemonSet", "chart-agent")["spec"]["template"]["spec"]["volumes"];
        let paths = volumes.as_array().unwrap().iter().filter_map(|volume| volume["hostPath"]["path"].as_str());
        let state = format!("/var/lib/wherry{of_cluster}");
        assert_eq!(paths.collect::<Vec<_>>(), ["/var/lib/kubelet", "/dev", &state]);
    }
    let base = objects(kube.rehearse(&renamed(&base)));
    let mut chart = objects(kube.rehearse(&renamed(&rendered("velero", &[]))));
    let drain = chart.remove(&("Job".to_owned(), "chart-drain".to_owned())).expect("the hook");
    assert_eq!(drain["metadata"]["annotations"]["helm.sh/hook"], "pre-delete");
    // Helm gives up after five minutes: the hook says before that what is left.
    let arguments = drain["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    let timeout = arguments.iter().find_map(|argument| argument.as_str().unwrap().strip_prefix("--timeout=")).unwrap();
    let timeout = wherry_api::time::parse_duration(timeout).unwrap();
    assert!(timeout > Duration::ZERO && timeout < Duration::from_secs(300), "{timeout:?}");
    // Only if it is not tried again: helm waits for the Job, not for its first pod.
    let rule = &drain["spec"]["podFailurePolicy"]["rules"][0];
    let codes = json!({ "containerName": "drain", "operator": "In", "values": [wherry_controller::drain::LEFT] });
    assert_eq!((&rule["action"], &rule["onExitCodes"]), (&json!("FailJob"), &codes), "{drain}");
    assert_eq!(drain["spec"]["template"]["spec"]["restartPolicy"], "Never");
    // Not in the base, as deleting that would take it away.
    let key = chart.remove(&("Secret".to_owned(), "chart-repository".to_owned())).expect("the Secret of the key");
    let deployed = fs::read_to_string(Path::new(FOLDER).join("key.yaml")).unwrap();
    assert_eq!(key, *get(&objects(kube.rehearse(&renamed(&deployed))), "Secret", "chart-repository"));
    assert_eq!(chart.keys().collect::<Vec<_>>(), base.keys().collect::<Vec<_>>());
    for (key, object) in &base {
        assert_eq!(&chart[key], object, "{key:?}");
    }
}

/// The key is nothing that an install, an upgrade or an uninstall takes away or makes another one of.
#[test]
fn the_chart_never_touches_a_key() {
    const NAMESPACE: &str = "keyed";
    let real = real();
    let kube = &real.kube;
    kube.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n"));
    let (server, authorities) = (kube.url(), kube.authorities().display().to_string());
    // Without hooks: nothing runs their Jobs here.
    let run = |arguments: &[&str]| {
        let cluster =
            ["--kube-apiserver", &server, "--kube-ca-file", &authorities, "--kube-token", Kube::ADMIN, "--no-hooks"];
        helm(&[arguments, &["--namespace", NAMESPACE][..], &cluster[..]].concat())
    };
    let done = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    let one = format!("{path}/wherry-repository");
    let there = || kube.ask(Method::GET, &one, None).unwrap();
    let send = |method, path: &str, media, body: Value| {
        kube.ask(method, path, Some((media, body.to_string().into_bytes()))).unwrap()
    };
    let patch = |body: Value| send(Method::PATCH, &one, "application/merge-patch+json", body);

    // One that an agent of before has made, or a copy that was brought back: it has to say that helm leaves it.
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "wherry-repository" }, "stringData": { "key": "of before" },
    });
    let made = send(Method::POST, &path, "application/json", secret);
    let refused = run(&["install", "wherry", "helm"]);
    let text = String::from_utf8_lossy(&refused.stderr);
    let next = "kubectl -n keyed annotate secret wherry-repository helm.sh/resource-policy=keep";
    assert!(!refused.status.success() && text.contains(next), "{text}");
    let made = patch(
        json!({ "metadata": { "uid": made["metadata"]["uid"], "annotations": { "helm.sh/resource-policy": "keep" } } }),
    );
    for arguments in [&["install", "wherry", "helm"][..], &["upgrade", "wherry", "helm"], &["uninstall", "wherry"]] {
        done(arguments);
        assert_eq!(there(), made, "{arguments:?}");
    }

    // Where there is none it is made empty; filled as an agent does it, it stays through all.
    kube.ask(Method::DELETE, &one, None).unwrap();
    done(&["install", "wherry", "helm"]);
    assert!(there()["data"].is_null(), "{}", there());
    assert_eq!(there()["metadata"]["labels"]["velero.io/exclude-from-backup"], "true");
    let filled = patch(json!({ "stringData": { "key": "of now" }, "immutable": true }));
    let same = |what: &str| {
        let (now, before) = (there(), &filled);
        assert_eq!((&now["data"], &now["metadata"]["uid"]), (&before["data"], &before["metadata"]["uid"]), "{what}");
    };
    done(&["upgrade", "wherry", "helm", "--set", "settings.pause=true"]);
    same("upgrade");
    // That puts its manifest in place of what is there.
    let forced = run(&["upgrade", "wherry", "helm", "--force"]);
    assert!(!forced.status.success(), "what is immutable was replaced");
    same("upgrade --force");
    done(&["rollback", "wherry", "1"]);
    same("rollback");
    done(&["uninstall", "wherry"]);
    same("uninstall");
    done(&["install", "wherry", "helm"]);
    same("install again");

    // The one of the release was replaced by a copy: that is not taken for what the release no longer has.
    kube.ask(Method::DELETE, &one, None).unwrap();
    let copy = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "wherry-repository" }, "stringData": { "key": "copy" },
    });
    let copy = send(Method::POST, &path, "application/json", copy);
    assert!(!run(&["upgrade", "wherry", "helm"]).status.success(), "it would be deleted");
    assert_eq!(there(), copy);
    let copy = patch(json!({ "metadata": { "annotations": { "helm.sh/resource-policy": "keep" } } }));
    done(&["upgrade", "wherry", "helm"]);
    assert_eq!((&there()["data"], &there()["metadata"]["uid"]), (&copy["data"], &copy["metadata"]["uid"]));
    done(&["uninstall", "wherry"]);
    assert_eq!(there()["data"], copy["data"]);
}

/// SecurityContextConstraints, security.openshift.io/v1, with the fields that OpenShift's API has: any other is refused.
fn constraints() -> Value {
    let (truth, text) = (json!({ "type": "boolean" }), json!({ "type": "string" }));
    let texts = json!({ "type": "array", "items": text, "nullable": true });
    let strategy = json!({ "type": "object", "required": ["type"], "properties": { "type": {
        "type": "string", "enum": ["RunAsAny", "MustRunAs", "MustRunAsNonRoot", "MustRunAsRange"],
    } } });
    let mut fields = json!({ "apiVersion": text, "kind": text, "metadata": { "type": "object" } });
    for name in [
        "allowHostDirVolumePlugin",
        "allowHostIPC",
        "allowHostNetwork",
        "allowHostPID",
        "allowHostPorts",
        "allowPrivilegeEscalation",
        "allowPrivilegedContainer",
        "readOnlyRootFilesystem",
    ] {
        fields[name] = truth.clone();
    }
    for name in [
        "allowedCapabilities",
        "defaultAddCapabilities",
        "requiredDropCapabilities",
        "seccompProfiles",
        "volumes",
        "users",
        "groups",
    ] {
        fields[name] = texts.clone();
    }
    for name in ["fsGroup", "runAsUser", "seLinuxContext", "supplementalGroups"] {
        fields[name] = strategy.clone();
    }
    let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": fields } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "securitycontextconstraints.security.openshift.io" },
        "spec": {
            "group": "security.openshift.io", "scope": "Cluster",
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": schema }],
            "names": {
                "kind": "SecurityContextConstraints", "listKind": "SecurityContextConstraintsList",
                "plural": "securitycontextconstraints", "singular": "securitycontextconstraint",
            },
        },
    })
}

#[test]
fn values_do_what_they_say() {
    let real = real();
    let kube = &real.kube;
    kube.define(&constraints());
    kube.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: valued\n");
    let made = rendered(
        "valued",
        &[
            "image.repository=registry.example/wherry",
            "image.digest=sha256:0123",
            "imagePullSecrets[0]=pull",
            "settings.maxActive=20",
            "settings.pause=true",
            r"settings.keepBase\.fast\.example=always",
            "controller.replicas=1",
            "controller.serviceAccountAnnotations.a=b",
            "agent.memory=2G",
            "agent.kubeletRoot=/var/snap/kubelet",
            "agent.env[0].name=HTTPS_PROXY",
            "agent.env[0].value=http://proxy.example:3128",
            "agent.podLabels.use=identity",
            "agent.serviceAccountAnnotations.role=arn",
            "hosting.tolerations[0].operator=Exists",
            "hosting.nodeSelector.disk=ssd",
            "hosting.resources.limits.memory=32Mi",
            "jobs.tolerations[0].operator=Exists",
            "jobs.nodeSelector.disk=hdd",
            "agent.nodeSelector.disk=ssd",
            "controller.nodeSelector.role=infra",
            "controller.tolerations[0].operator=Exists",
            "drain.wait=30m",
            "openshift.enabled=true",
            "localVolumes.enabled=true",
        ],
    );
    let made = objects(kube.rehearse(&renamed(&made)));
    let data = get(&made, "ConfigMap", "chart")["data"].clone();
    let data: BTreeMap<String, String> = serde_json::from_value(data).unwrap();
    let settings = Settings::parse(&data).unwrap();
    assert_eq!((settings.max_active, settings.pause), (20, true));
    assert_eq!(*settings.keep_base.of("fast.example"), wherry_api::KeepBase::Always);
    assert_eq!(settings.kubelet_root, "/var/snap/kubelet");
    // The pods that the controller makes; Jobs reach the bucket as the agents do unless values say how.
    assert_eq!(settings.pull_secrets, ["pull"]);
    let exists = [json!({ "operator": "Exists" })];
    assert_eq!((&settings.hosting_tolerations[..], &settings.job_tolerations[..]), (&exists[..], &exists[..]));
    assert_eq!(
        (settings.hosting_node_selector["disk"].as_str(), settings.job_node_selector["disk"].as_str()),
        ("ssd", "hdd")
    );
    assert_eq!(settings.hosting_resources, json!({ "limits": { "memory": "32Mi" } }));
    assert_eq!(settings.job_env.0, [json!({ "name": "HTTPS_PROXY", "value": "http://proxy.example:3128" })]);
    assert_eq!((settings.job_labels["use"].as_str(), settings.job_user), ("identity", None));
    for account in ["chart-agent", "chart-jobs"] {
        assert_eq!(get(&made, "ServiceAccount", account)["metadata"]["annotations"]["role"], "arn", "{account}");
    }
    let agents = &get(&made, "DaemonSet", "chart-agent")["spec"]["template"];
    let container = &agents["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/wherry@sha256:0123");
    assert!(container["args"].as_array().unwrap().contains(&"--memory=2G".into()), "{container}");
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["mountPath"] == "/var/snap/kubelet"), "{mounts:?}");
    let volumes = agents["spec"]["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["hostPath"]["path"] == "/var/snap/kubelet"), "{volumes:?}");
    assert!(container["env"].as_array().unwrap().iter().any(|entry| entry["name"] == "HTTPS_PROXY"), "{container}");
    assert_eq!(agents["spec"]["nodeSelector"]["disk"], "ssd");
    assert_eq!(agents["metadata"]["labels"]["use"], "identity");
    assert_eq!(agents["metadata"]["annotations"]["openshift.io/required-scc"], "privileged");
    let controller = &get(&made, "Deployment", "chart-controller")["spec"];
    assert_eq!(controller["replicas"], 1);
    // That one pod may be evicted: else the drain of its node never ends.
    let budget = &get(&made, "PodDisruptionBudget", "chart-controller")["spec"];
    assert_eq!((&budget["maxUnavailable"], &budget["minAvailable"]), (&json!(1), &Value::Null), "{budget}");
    let account = get(&made, "ServiceAccount", "chart-controller");
    assert_eq!(account["metadata"]["annotations"]["a"], "b");
    let drain = &get(&made, "Job", "chart-drain")["spec"]["template"]["spec"];
    assert!(drain["containers"][0]["args"].as_array().unwrap().contains(&"--wait=30m".into()), "{drain}");
    for pod in [&agents["spec"], &controller["template"]["spec"], drain] {
        assert_eq!(pod["imagePullSecrets"][0]["name"], "pull", "{pod}");
    }
    // Where the controller finds a node, the hook has to.
    for pod in [&controller["template"]["spec"], drain] {
        assert_eq!(
            (&pod["nodeSelector"]["role"], &pod["tolerations"][0]["operator"]),
            (&json!("infra"), &json!("Exists"))
        );
    }
    // On OpenShift the namespace has users of its own, and a pod that names another is refused.
    for pod in [&controller["template"]["spec"], drain] {
        let context = &pod["securityContext"];
        assert!(
            context["runAsNonRoot"] == true && context["runAsUser"].is_null() && context["runAsGroup"].is_null(),
            "{pod}"
        );
    }
    assert!(made.contains_key(&("RoleBinding".to_owned(), "chart-agent-privileged".to_owned())));

    // Hosting pods get an SCC that changes nothing on a volume and allows nothing else, by who makes them.
    let constraints = get(&made, "SecurityContextConstraints", "chart-hosting-valued");
    for strategy in ["fsGroup", "seLinuxContext"] {
        assert_eq!(constraints[strategy]["type"], "RunAsAny", "{constraints}");
    }
    let fields = constraints.as_object().unwrap();
    let allowed: Vec<&String> = fields
        .iter()
        .filter(|(name, value)| name.starts_with("allow") && **value == json!(true))
        .map(|(name, _)| name)
        .collect();
    assert!(allowed.is_empty(), "{allowed:?}");
    assert_eq!(
        (&constraints["volumes"], &constraints["requiredDropCapabilities"]),
        (&json!(["persistentVolumeClaim"]), &json!(["ALL"]))
    );
    let rule = &get(&made, "ClusterRole", "chart-hosting-scc-valued")["rules"][0];
    assert_eq!(rule["verbs"], json!(["use"]));
    let user = &get(&made, "RoleBinding", "chart-hosting-scc")["subjects"][0];
    assert_eq!((&user["name"], &user["namespace"]), (&json!("chart-controller"), &json!("valued")));
    // (All names of ours are other ones here, but in lists.)
    assert_eq!(
        (rule["resourceNames"][0].as_str(), settings.hosting_scc.as_str()),
        (Some("wherry-hosting-valued"), "wherry-hosting-valued")
    );

    let local = get(&made, "ClusterRoleBinding", "chart-local-volumes-valued");
    assert_eq!(local["roleRef"]["name"], "chart-local-volumes-valued");
    assert_eq!(local["subjects"][0]["namespace"], "valued");
    let rule = &get(&made, "ClusterRole", "chart-local-volumes-valued")["rules"][0];
    assert_eq!((&rule["resources"], &rule["verbs"]), (&json!(["persistentvolumes"]), &json!(["create", "delete"])));

    // What Jobs get of their own wins over what the agents have.
    let own = [
        "agent.podLabels.a=agents",
        "jobs.podLabels.a=jobs",
        "agent.serviceAccountAnnotations.r=agents",
        "jobs.serviceAccountAnnotations.r=jobs",
    ];
    let own = objects(kube.rehearse(&renamed(&rendered("valued", &own))));
    assert_eq!(get(&own, "ConfigMap", "chart")["data"]["jobLabels"], "{\"a\":\"jobs\"}");
    assert_eq!(get(&own, "ServiceAccount", "chart-jobs")["metadata"]["annotations"]["r"], "jobs");
    assert_eq!(get(&own, "ServiceAccount", "chart-agent")["metadata"]["annotations"]["r"], "agents");

    // Those of a class are taken for each setting that may have one, and for no other.
    for entry in ENTRIES {
        let value = format!("settings.{}\\.fast={}", entry.key, json!(entry.default));
        let output = helm(&["template", "w", "helm", "--kube-version", "1.34.4", "--set-json", &value]);
        assert_eq!(output.status.success(), entry.by_class, "{value}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // A number without quotes in a file of values is one as well.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    fs::write(&file, "settings: {uploadRate: 104857600, maxActive: 20, pause: true}\n").unwrap();
    let file = file.to_str().unwrap();
    let unquoted =
        helm(&["template", "wherry", "helm", "--namespace", "valued", "--kube-version", "1.34.4", "--values", file]);
    let unquoted = objects(kube.rehearse(&renamed(&String::from_utf8(unquoted.stdout).unwrap())));
    let data: BTreeMap<String, String> =
        serde_json::from_value(get(&unquoted, "ConfigMap", "chart")["data"].clone()).unwrap();
    let settings = Settings::parse(&data).unwrap();
    assert_eq!((settings.upload_rate, settings.max_active, settings.pause), (100 << 20, 20, true));

    // A typing mistake does not go unseen.
    let wrong = helm(&["template", "w", "helm", "--kube-version", "1.34.4", "--set", "settings.maxactive=3"]);
    let text = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && text.contains("settings.maxactive: there is no such setting"), "{text}");
    let monitored = rendered("valued", &["monitoring.enabled=true", "monitoring.labels.release=prometheus"]);
    for part in ["kind: PodMonitor", "kind: PrometheusRule", "name: wherry-dashboard", "release: prometheus"] {
        assert!(monitored.contains(part), "{part:?} is not in {monitored}");
    }
}

/// What the API server or the controller would refuse is refused before anything is made, by its name.
#[test]
fn values_that_cannot_be_used_do_not_render() {
    let template =
        |arguments: &[&str]| helm(&[&["template", "w", "helm", "--kube-version", "1.34.4"][..], arguments].concat());
    let refused = |arguments: &[&str]| {
        let output = template(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (value, name) in [
        ("hosting.resources.limits.cpu=1", "/hosting/resources/limits/cpu"),
        ("hosting.nodeSelector.a=true", "/hosting/nodeSelector/a"),
        ("agent.podLabels.x=true", "/agent/podLabels/x"),
        ("jobs.podLabels.x=1", "/jobs/podLabels/x"),
        ("agent.serviceAccountAnnotations.x=1", "/agent/serviceAccountAnnotations/x"),
        ("controller.nodeSelector.a=1", "/controller/nodeSelector/a"),
        ("monitoring.labels.x=1", "/monitoring/labels/x"),
        ("settings.hostingNodeSelector.disk=ssd", "/settings/hostingNodeSelector"),
        ("settings.datamovers={a,b}", "/settings/datamovers"),
        ("jobs.env[0].name=A,jobs.env[0].value=5", "/jobs/env/0/value"),
        ("agent.env[0].value=x", "/agent/env/0"),
        ("hosting.tolerations[0].operator=Is", "/hosting/tolerations/0/operator"),
        ("imagePullSecrets[0].name=x", "/imagePullSecrets/0"),
        ("image.tag=1", "/image/tag"),
        ("controller.replicas=0", "/controller/replicas"),
        ("agent.memory=1000000000", "/agent/memory"),
        ("drain.wait=30", "/drain/wait"),
        ("monitoring.enabled=yes", "/monitoring/enabled"),
        ("monitorin.enabled=true", "monitorin"),
        ("settings.maxActive=0", "/settings/maxActive"),
        // Which settings there are the template says.
        ("settings.maxactive=3", "settings.maxactive: there is no such setting"),
    ] {
        let text = refused(&["--set", value]);
        assert!(text.contains(name), "{value}: {text}");
    }
    // What is text in all of that, and quantities of containers, which the API server reads.
    let good = template(&["--set", "controller.resources.limits.cpu=1,hosting.resources.limits.cpu=1m,drain.wait=0s"]);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));

    // Values of settings: as the controller reads them, by what they are.
    let samples = |unit: &str| match unit {
        "true or false" => ("true", "yes"),
        "count" => ("7", "0"),
        "percent" => ("7", "101"),
        "bytes per second and node" => ("7", "1.5"),
        "duration" => ("1h30m", "5"),
        "path" => ("/x", "x"),
        "quantity" => ("777Mi", "much"),
        "auto, always or never" => ("always", "yes"),
        "always, never or duration" => ("1.5h", "sometimes"),
        "JSON object of texts" => (r#"{"a": "b"}"#, "a=b"),
        "JSON list of tolerations" | "JSON list of variables" => (" []", "Exists"),
        "JSON object of resources" => ("{}", "1"),
        "id of a user, or empty" => ("7", "0"),
        "CPUs, or empty" => ("500m", "two"),
        _ => ("other", ""),
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, settings: &BTreeMap<String, String>| {
        let path = folder.path().join(name);
        fs::write(&path, json!({ "settings": settings }).to_string()).unwrap();
        path.display().to_string()
    };
    let all = |value: fn(&'static str, &(&'static str, &'static str)) -> &'static str| -> BTreeMap<String, String> {
        let of = |entry: &wherry_api::settings::Entry| value(entry.default, &samples(entry.unit)).to_owned();
        let mut all: BTreeMap<String, String> = ENTRIES.iter().map(|entry| (entry.key.to_owned(), of(entry))).collect();
        let by_class = ENTRIES.iter().filter(|entry| entry.by_class);
        all.extend(by_class.map(|entry| (format!("{}.fast.example", entry.key), of(entry))));
        all
    };
    for (name, settings) in [("defaults", all(|default, _| default)), ("good", all(|_, samples| samples.0))] {
        Settings::parse(&settings).unwrap_or_else(|wrong| panic!("{wrong:?}"));
        let output = template(&["--values", &file(name, &settings)]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut bad = all(|_, samples| samples.1);
    bad.retain(|_, value| !value.is_empty());
    let text = refused(&["--values", &file("bad", &bad)]);
    assert!(bad.len() > 30, "{bad:?}");
    for (key, value) in &bad {
        assert!(Settings::parse(&BTreeMap::from([(key.clone(), value.clone())])).is_err(), "{key}: {value}");
        assert!(text.contains(&format!("'/settings/{key}'")), "{key}: {text}");
    }
}
