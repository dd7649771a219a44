//! What settings say about the pods that the controller makes, hosting pods and those of Jobs: JSON, as it stands in a pod.

use crate::by_class::is_key;
use crate::quantity::quantity;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Reads names of Secrets, separated by commas; empty: none.
pub(crate) fn secrets(text: &str) -> Result<Vec<String>, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(ToOwned::to_owned);
    let names: Vec<String> = names.collect();
    match names.iter().find(|name| !crate::by_class::is_class(name)) {
        Some(name) => Err(format!("{name:?} is no name that a Secret can have")),
        None => Ok(names),
    }
}

/// Reads `spec.tolerations` of a pod (core/v1 `Toleration`).
pub(crate) fn tolerations(text: &str) -> Result<Vec<Value>, String> {
    let known = ["key", "operator", "value", "effect", "tolerationSeconds"];
    let check = |one: &Map<String, Value>| {
        let one_of = |field: &str, words: &[&str]| match one.get(field) {
            Some(value) if !words.iter().any(|word| value == word) => {
                Err(format!("{field} {value} is none of {}", words.join(", ")))
            }
            _ => Ok(()),
        };
        one_of("operator", &["Exists", "Equal"])?;
        one_of("effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"])?;
        for field in ["key", "value"] {
            if one.get(field).is_some_and(|value| !value.is_string()) {
                return Err(format!("{field} is no text"));
            }
        }
        match one.get("tolerationSeconds") {
            Some(seconds) if !seconds.is_i64() => Err("tolerationSeconds is no whole number".to_owned()),
            _ => Ok(()),
        }
    };
    list(text, &known, check)
}

/// Environment of a container. It may hold the password of a proxy, so only names are printed.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Env(pub Vec<Value>);

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|one| one["name"].as_str().unwrap_or_default())).finish()
    }
}

/// Reads `env` of a container (core/v1 `EnvVar`).
pub(crate) fn env(text: &str) -> Result<Env, String> {
    list(text, &["name", "value", "valueFrom"], |one| {
        let name = one.get("name").and_then(Value::as_str).unwrap_or_default();
        match (one.get("value"), one.get("valueFrom")) {
            _ if name.is_empty() || name.contains('=') => Err("one has no name that a variable can have".to_owned()),
            (Some(_), Some(_)) => Err(format!("{name} has value and valueFrom")),
            (Some(value), None) if !value.is_string() => Err(format!("value of {name} is no text: put it in quotes")),
            (None, Some(from)) if !from.is_object() => Err(format!("valueFrom of {name} is no object")),
            _ => Ok(()),
        }
    })
    .map(Env)
}

fn list(
    text: &str,
    known: &[&str],
    check: impl Fn(&Map<String, Value>) -> Result<(), String>,
) -> Result<Vec<Value>, String> {
    let read: Vec<Value> = serde_json::from_str(text).map_err(|e| format!("no JSON list of objects: {e}"))?;
    for one in &read {
        let fields = one.as_object().ok_or_else(|| format!("{one} is no object"))?;
        if let Some(other) = fields.keys().find(|field| !known.contains(&field.as_str())) {
            return Err(format!("there is no field {other:?}; known: {}", known.join(", ")));
        }
        check(fields)?;
    }
    Ok(read)
}

/// Reads `resources` of a container (core/v1 `ResourceRequirements`), without claims.
pub(crate) fn resources(text: &str) -> Result<Value, String> {
    let read: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(text)
        .map_err(|e| format!("no JSON object of requests and limits, quantities as texts: {e}"))?;
    for (kind, quantities) in &read {
        if !["requests", "limits"].contains(&kind.as_str()) {
            return Err(format!("there is no field {kind:?}; known: requests, limits"));
        }
        if let Some((name, text)) = quantities.iter().find(|(_, text)| quantity(text).is_none()) {
            return Err(format!("{name} {text:?} of {kind} is no quantity"));
        }
    }
    serde_json::to_value(read).map_err(|e| e.to_string())
}

/// Reads labels, of pods that are made or of nodes that are chosen: a JSON object of texts.
pub(crate) fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let read: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|e| format!("no JSON object of texts: {e}"))?;
    if let Some(key) = read.keys().find(|key| !is_key(key)) {
        return Err(format!("{key:?} is no name of a label"));
    }
    match read.values().find(|value| !value.is_empty() && (value.contains('/') || !is_key(value))) {
        Some(value) => Err(format!("{value:?} is no value of a label")),
        None => Ok(read),
    }
}

/// Reads labels of pods that are made; those that others decide by are none of the user's.
pub(crate) fn own_labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let read = labels(text)?;
    let taken =
        ["wherry.io/", "velero.io/", "app.kubernetes.io/name", "app.kubernetes.io/component", "batch.kubernetes.io/"];
    match read.keys().find(|key| taken.iter().any(|prefix| key.starts_with(prefix))) {
        Some(key) => Err(format!("label {key:?} is not yours to set")),
        None => Ok(read),
    }
}

/// Reads the user that a process runs as, which is not root; empty: whatever the cluster gives.
pub(crate) fn user(text: &str) -> Result<Option<u32>, String> {
    match text {
        "" => Ok(None),
        text => match text.parse::<u32>() {
            Ok(id) if (1..=i32::MAX.cast_unsigned()).contains(&id) => Ok(Some(id)),
            _ => Err(format!("{text:?} is no id of a user from 1 on, and not empty")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused<T: std::fmt::Debug>(read: Result<T, String>, said: &str) {
        let refusal = read.unwrap_err();
        assert!(refusal.contains(said), "{refusal}");
    }

    #[test]
    fn what_a_pod_would_take_is_taken() {
        assert_eq!(tolerations("[]").unwrap(), Vec::<Value>::new());
        let all =
            r#"[{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5}]"#;
        assert_eq!(tolerations(all).unwrap().len(), 2);
        let env_text = r#"[{"name": "NO_PROXY", "value": ""}, {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]"#;
        let read = env(env_text).unwrap();
        assert_eq!(
            (&read.0[0]["name"], format!("{read:?}").as_str()),
            (&serde_json::json!("NO_PROXY"), r#"["NO_PROXY", "A"]"#)
        );
        let read = resources(r#"{"requests": {"cpu": "5m", "memory": "16Mi"}}"#).unwrap();
        assert_eq!(read["requests"]["cpu"], "5m");
        assert_eq!(labels(r#"{"kubernetes.io/os": "linux", "empty": ""}"#).unwrap().len(), 2);
        assert_eq!(own_labels(r#"{"azure.workload.identity/use": "true"}"#).unwrap().len(), 1);
        assert_eq!(secrets(" a, b.c ,").unwrap(), ["a", "b.c"]);
        assert_eq!((secrets("").unwrap().len(), user("").unwrap(), user("1000").unwrap()), (0, None, Some(1000)));
    }

    #[test]
    fn what_no_pod_would_take_is_refused() {
        refused(tolerations("{}"), "no JSON list");
        refused(tolerations(r#"["a"]"#), "\"a\" is no object");
        refused(tolerations(r#"[{"operators": "Exists"}]"#), "there is no field \"operators\"");
        refused(tolerations(r#"[{"operator": "exists"}]"#), "none of Exists, Equal");
        refused(tolerations(r#"[{"effect": "No"}]"#), "effect \"No\"");
        refused(tolerations(r#"[{"key": 7}]"#), "key is no text");
        refused(tolerations(r#"[{"tolerationSeconds": "5"}]"#), "tolerationSeconds");
        refused(env(r#"[{"value": "x"}]"#), "no name");
        refused(env(r#"[{"name": "A", "value": 7}]"#), "value of A is no text");
        refused(env(r#"[{"name": "A", "value": "x", "valueFrom": {}}]"#), "value and valueFrom");
        refused(env(r#"[{"name": "A", "valueFrom": "x"}]"#), "no object");
        refused(resources(r#"{"limit": {}}"#), "\"limit\"");
        refused(resources(r#"{"limits": {"cpu": "much"}}"#), "cpu \"much\" of limits");
        refused(resources(r#"{"limits": {"cpu": 1}}"#), "texts");
        refused(labels(r#"{"a b": "c"}"#), "\"a b\"");
        refused(labels(r#"{"a": "b c"}"#), "\"b c\"");
        refused(labels(r#"{"a": "b/c"}"#), "\"b/c\"");
        for key in ["wherry.io/cr-uid", "velero.io/backup-name", "app.kubernetes.io/name"] {
            refused(own_labels(&format!("{{\"{key}\": \"x\"}}")), "not yours");
        }
        refused(secrets("A_b"), "\"A_b\"");
        for bad in ["0", "-1", "root", "4294967295"] {
            refused(user(bad), "no id of a user");
        }
    }
}
