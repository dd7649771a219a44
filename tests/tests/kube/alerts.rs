//! Alerts and dashboard: they name what is in the catalogue of metrics, and look at one install.

use crate::chart::{FOLDER, rendered};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use wherry_api::metrics::{CATALOGUE, Type};

/// Names of metrics in an expression, each with the labels that it is selected by; and the labels that it is grouped by.
fn named(text: &str) -> (Vec<(String, Vec<String>)>, BTreeSet<String>) {
    let word = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let mut metrics = Vec::new();
    for (at, _) in text.match_indices("wherry_") {
        let name = word(&text[at..]);
        let rest = &text[at + name.len()..];
        let selected = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
        metrics.push((
            name,
            selected.split(',').map(|part| word(part.trim())).filter(|label| !label.is_empty()).collect(),
        ));
    }
    let groups = text.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    (metrics, groups.flat_map(|group| group.split(',').map(|label| label.trim().to_owned())).collect())
}

/// An error unless all that the expression names is in the catalogue, and is of that namespace alone.
fn check(expression: &str, namespace: &str) -> Result<Vec<String>, String> {
    let (metrics, groups) = named(expression);
    let mut known = BTreeSet::from(["le".to_owned()]);
    let mut names = Vec::new();
    for (name, labels) in &metrics {
        let metric = CATALOGUE.iter().find(|metric| match metric.kind {
            Type::Histogram(_) => {
                ["_bucket", "_sum", "_count"].iter().any(|end| *name == format!("{}{end}", metric.name))
            }
            Type::Counter | Type::Gauge => metric.name == name,
        });
        let metric = metric.ok_or_else(|| format!("there is no metric {name}: {expression}"))?;
        known.extend(metric.labels.iter().map(|label| label.name.to_owned()));
        if !expression.contains(&format!("{name}{{namespace=\"{namespace}\"")) {
            return Err(format!("{name} is of any install: {expression}"));
        }
        if let Some(label) =
            labels[1..].iter().find(|label| !metric.labels.iter().any(|known| known.name == label.as_str()))
        {
            return Err(format!("{name} has no label {label}: {expression}"));
        }
        names.push(metric.name.to_owned());
    }
    match groups.difference(&known).next() {
        Some(label) => Err(format!("nothing there has label {label}: {expression}")),
        None if metrics.is_empty() => Err(format!("no metric of ours: {expression}")),
        None => Ok(names),
    }
}

#[test]
fn alerts_and_dashboard_name_what_there_is() {
    let rules = fs::read_to_string(Path::new(FOLDER).join("monitoring/rules.yaml")).unwrap();
    let expressions: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(expressions.len(), rules.matches("- alert: ").count());
    let mut alerted = BTreeSet::new();
    for expression in &expressions {
        alerted.extend(check(expression, "velero").unwrap_or_else(|e| panic!("{e}")));
    }
    for wanted in [
        "wherry_leftovers",
        "wherry_forgetting_on_hold",
        "wherry_crs_without_agent",
        "wherry_crs_deadline_at_risk",
        "wherry_key_missing",
        "wherry_last_completed_timestamp_seconds",
        "wherry_oldest_completed_timestamp_seconds",
        "wherry_volumes_failing",
        "wherry_gc_overdue",
        "wherry_jobs_failing",
        "wherry_paused",
    ] {
        assert!(alerted.contains(wanted), "no alert is about {wanted}");
    }
    // It stays when the last DataUploads have expired: a restart of the controller, which has seen none since, ends it no sooner.
    let too_old: Vec<&&str> = expressions.iter().filter(|one| one.contains("wherry_last_completed")).collect();
    let held = "max(max_over_time(wherry_last_completed_timestamp_seconds{namespace=\"velero\",kind=\"upload\"}[14d]))";
    assert_eq!(too_old, [&format!("time() - ({held} > 0) > 129600").as_str()]);
    let dashboard = fs::read_to_string(Path::new(FOLDER).join("monitoring/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut shown = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let checked = check(target["expr"].as_str().unwrap(), "$namespace");
            shown.extend(checked.unwrap_or_else(|e| panic!("{}: {e}", panel["title"])));
        }
    }
    // Whatever is counted can be seen.
    let all: BTreeSet<String> = CATALOGUE.iter().map(|metric| metric.name.to_owned()).collect();
    assert_eq!(shown, all);
    assert!(check("max(wherry_leftovers{namespace=\"velero\"})", "velero").is_ok());
    for wrong in [
        "max(wherry_nothing{namespace=\"velero\"})",
        "wherry_leftovers{namespace=\"velero\",kind=\"upload\"}",
        "sum by (pvc) (wherry_crs{namespace=\"velero\"})",
        "up == 0",
        "wherry_queue_seconds{namespace=\"velero\"}",
        "max(wherry_leftovers)",
        "max(wherry_leftovers{namespace=\"second\"})",
    ] {
        assert!(check(wrong, "velero").is_err(), "{wrong}");
    }
}

/// Of two installs in one cluster the one that is well says nothing of the other: all that is asked of numbers is asked of one namespace, and
/// its name is on the alert.
#[test]
fn alerts_are_of_one_install() {
    let plain = fs::read_to_string(Path::new(FOLDER).join("monitoring/rules.yaml")).unwrap();
    let chart = |namespace: &str| {
        let all = rendered(namespace, &["monitoring.enabled=true"]);
        all.split("\n---").find(|object| object.contains("kind: PrometheusRule")).unwrap().to_owned()
    };
    for (namespace, rules) in [("velero", plain.clone()), ("velero", chart("velero")), ("second", chart("second"))] {
        let (alerts, selectors) = (rules.matches("- alert: ").count(), rules.matches("wherry_").count());
        assert!(alerts >= 14 && selectors >= alerts, "{alerts} alerts, {selectors} selectors");
        let of_it = rules.split("wherry_").skip(1).filter(|rest| {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
            rest.starts_with(&format!("{{namespace=\"{namespace}\""))
        });
        assert_eq!(of_it.count(), selectors, "{namespace}: {rules}");
        // The object is in it, too.
        let labels = rules.lines().filter(|line| line.trim() == format!("namespace: {namespace}")).count();
        assert_eq!(labels, alerts + 1, "{namespace}: {rules}");
    }
    // With kustomize an overlay writes its namespace over the first quoted text of each expression: that is it, and there is no other selector.
    for expression in plain.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        assert_eq!((expression.matches("wherry_").count(), expression.split('"').nth(1)), (1, Some("velero")));
    }
    let overlay = Path::new(FOLDER).join("../examples/second-install/monitoring/kustomization.yaml");
    let overlay = fs::read_to_string(overlay).unwrap();
    for part in [
        "namespace: second",
        "- ../../../deploy/monitoring",
        "- source: {kind: PrometheusRule, name: wherry, fieldPath: metadata.namespace}",
        "fieldPaths: [spec.groups.*.rules.*.expr]\n        options: {delimiter: '\"', index: 1}",
        "fieldPaths: [spec.groups.*.rules.*.labels.namespace]",
    ] {
        assert!(overlay.contains(part), "{part:?} is not in {overlay}");
    }
}
