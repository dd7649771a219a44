//! What a client of the CSI SnapshotMetadata service (KEP-3314) needs of the API server: where the service of a driver is, and a
//! token that it takes.

use crate::api::{ApiError, Refusal};
use crate::base64;
use crate::kube_api::{KubeApi, escape};
use crate::time::Time;
use reqwest::Method;
use serde_json::{Value, json};
use std::fmt;

/// API group of the custom resource `SnapshotMetadataService`.
pub const GROUP: &str = "cbt.storage.k8s.io";
/// Its versions that this build reads, the one that is preferred first.
pub const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
const PLURAL: &str = "snapshotmetadataservices";

/// `SnapshotMetadataServiceSpec`: where the service of a driver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `address`: host and port.
    pub address: String,
    /// `audience` of the tokens that it takes.
    pub audience: String,
    /// `caCert`: the certificates that its own is signed by, PEM.
    pub authorities: Vec<u8>,
}

/// A token of a service account.
#[derive(Clone)]
pub struct AccountToken {
    /// It. Never printed: with it anybody is this account, where that audience is asked for.
    pub text: String,
    /// `expirationTimestamp`; none if the server does not say it.
    pub expires: Option<Time>,
}

impl fmt::Debug for AccountToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountToken").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl KubeApi {
    /// Where the service of that driver is. `Ok(Err(why))`: there is none that could be asked.
    ///
    /// # Errors
    /// When the API server gives no answer, or refuses it.
    pub async fn snapshot_metadata_service(&self, driver: &str) -> Result<Result<Service, String>, ApiError> {
        // All groups: a path of one that is not served is answered as by a server that is still starting.
        let groups = self.client().send("get API groups", Method::GET, "/apis", None).await?;
        let version = match served(&groups) {
            Ok(version) => version,
            Err(why) => return Ok(Err(why)),
        };
        let path = format!("/apis/{GROUP}/{version}/{PLURAL}/{}", escape(driver));
        let call = format!("get SnapshotMetadataService {driver}");
        match self.client().send(&call, Method::GET, &path, None).await {
            Ok(object) => Ok(service(driver, &object)),
            Err(e) if e.refusal == Refusal::NotFound => Ok(Err(format!(
                "the cluster has no SnapshotMetadataService {driver}: the driver offers no changed blocks"
            ))),
            Err(e) => Err(e),
        }
    }

    /// A new token of a service account for that audience, which is good for so many seconds (TokenRequest,
    /// authentication.k8s.io/v1; the server may give one of another duration).
    ///
    /// # Errors
    /// When the API server gives none.
    pub async fn account_token(
        &self,
        namespace: &str,
        account: &str,
        audience: &str,
        seconds: u32,
    ) -> Result<AccountToken, ApiError> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", escape(namespace), escape(account));
        let call = format!("create token of ServiceAccount {namespace}/{account}");
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "audiences": [audience], "expirationSeconds": seconds },
        });
        let body = Some(("application/json", body.to_string().into_bytes()));
        let answer = self.client().send(&call, Method::POST, &path, body).await?;
        token(&answer).ok_or_else(|| ApiError::new(Refusal::Unavailable, &call, "the answer has no token".to_owned()))
    }
}

/// The token in a TokenRequest that was answered; `None`: there is none.
pub(crate) fn token(answer: &Value) -> Option<AccountToken> {
    let text = answer["status"]["token"].as_str().filter(|token| !token.is_empty())?.to_owned();
    let expires = answer["status"]["expirationTimestamp"].as_str().and_then(|text| text.parse().ok());
    Some(AccountToken { text, expires })
}

/// The version to ask in, of an `APIGroupList`; else why there is none.
pub(crate) fn served(groups: &Value) -> Result<&'static str, String> {
    let all = groups["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(group) = all.iter().find(|group| group["name"] == GROUP) else {
        return Err(format!("the cluster has no SnapshotMetadataService ({GROUP} is not served)"));
    };
    let versions = group["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let versions: Vec<&str> = versions.iter().filter_map(|version| version["version"].as_str()).collect();
    let known = VERSIONS.into_iter().find(|known| versions.contains(known));
    known.ok_or_else(|| {
        format!("the cluster serves {GROUP} as {}, and this build knows {}", versions.join(", "), VERSIONS.join(", "))
    })
}

pub(crate) fn service(driver: &str, object: &Value) -> Result<Service, String> {
    let text = |name: &str| match object["spec"][name].as_str() {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(format!("SnapshotMetadataService {driver} has no {name}")),
    };
    let authorities = base64::decode(text("caCert")?);
    let authorities = authorities.ok_or_else(|| format!("caCert of SnapshotMetadataService {driver} is no base64"))?;
    Ok(Service { address: text("address")?.to_owned(), audience: text("audience")?.to_owned(), authorities })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_is_known_is_asked_for() {
        let groups = |versions: &[&str]| {
            let versions: Vec<Value> = versions.iter().map(|version| json!({ "version": version })).collect();
            json!({ "groups": [{ "name": "apps" }, { "name": GROUP, "versions": versions }] })
        };
        assert_eq!(served(&groups(&["v1alpha1"])), Ok("v1alpha1"));
        assert_eq!(served(&groups(&["v1alpha1", "v1beta1", "v1"])), Ok("v1beta1"));
        let why = served(&groups(&["v2"])).unwrap_err();
        assert!(why.contains("v2") && why.contains("v1beta1"), "{why}");
        for none in [json!({}), json!({ "groups": [{ "name": "apps" }] })] {
            assert!(served(&none).unwrap_err().contains("no SnapshotMetadataService"));
        }
    }

    #[test]
    fn a_service_is_read_whole_or_not_at_all() {
        let object = |name: &str, value: Value| {
            let mut spec = json!({ "address": "10.0.0.1:50051", "audience": "lab", "caCert": "UEVN" });
            spec[name] = value;
            service("lab.csi", &json!({ "spec": spec }))
        };
        let whole = Service { address: "10.0.0.1:50051".into(), audience: "lab".into(), authorities: b"PEM".to_vec() };
        assert_eq!(object("later", json!(1)), Ok(whole));
        for (name, value) in
            [("address", json!("")), ("audience", json!(7)), ("caCert", Value::Null), ("caCert", json!("?"))]
        {
            let why = object(name, value).unwrap_err();
            assert!(why.contains(name) && why.contains("lab.csi"), "{why}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        let token = AccountToken { text: "secret".into(), expires: None };
        assert!(!format!("{token:?}").contains("secret"));
    }
}
