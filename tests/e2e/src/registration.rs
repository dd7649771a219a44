//! How a plugin tells the kubelet of itself: `pluginregistration`, v1, after
//! `k8s.io/kubelet/pkg/apis/pluginregistration/v1/api.proto`. The kubelet is the client.

use crate::wire::{Method, messages};

messages! {
    InfoRequest {}
    PluginInfo { 1 kind: String, 2 name: String, 3 endpoint: String, 4 supported_versions: Vec<String> }
    RegistrationStatus { 1 plugin_registered: bool, 2 error: String }
    RegistrationStatusResponse {}
}

/// What `PluginInfo::kind` is of a CSI driver.
pub const CSI_PLUGIN: &str = "CSIPlugin";

/// `GetInfo`: who are you?
pub const GET_INFO: Method<InfoRequest, PluginInfo> = Method::new("/pluginregistration.Registration/GetInfo");
/// `NotifyRegistrationStatus`: what has come of it.
pub const NOTIFY: Method<RegistrationStatus, RegistrationStatusResponse> =
    Method::new("/pluginregistration.Registration/NotifyRegistrationStatus");
