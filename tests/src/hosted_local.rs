//! Local volumes, as the kubelet publishes them: beside those of CSI drivers, in folders of their own.

use super::*;
use wherry_api::{LocalVolume, labels};

/// A device that is published; dropped, it is not any more.
#[derive(Debug)]
pub struct LocalDevice {
    // In this order: the one on top first.
    _lock: Loop,
    bound: Bound,
}

impl LocalDevice {
    /// The node that the agent opens.
    pub fn node(&self) -> &Path {
        self.bound.path()
    }
}

impl Stand {
    /// A DataUpload of a local volume of that path, which is prepared.
    pub fn local_upload(&self, name: &str, mode: &str, bytes: u64, path: &Path) -> Hosted {
        let local = LocalVolume { volume: "local-1".into(), path: path.display().to_string() };
        let hosted = self.upload_by(name, mode, bytes, |plan| {
            *plan = UploadPlan {
                version: wherry_api::plan::LOCAL_VERSION,
                cr_uid: plan.cr_uid.clone(),
                attempt: 1,
                local: Some(local),
                restore_size: plan.restore_size,
                source_volume_mode: plan.source_volume_mode.clone(),
                source_uid: plan.source_uid.clone(),
                ..UploadPlan::default()
            };
        });
        self.patch(&hosted.key, &json!({ "spec": { "snapshotType": names::LOCAL, "csiSnapshot": null } }));
        hosted
    }

    /// Binds a device for a pod, links to it as `link`, and takes the kubelet's lock on it.
    pub fn publish_local(&self, hosted: &Hosted, device: &Path, link: &Path) -> LocalDevice {
        let Hosted { pod_uid, pv, .. } = hosted;
        let node = self.root().join(format!("plugins/kubernetes.io~local-volume/volumeDevices/{pv}/{pod_uid}"));
        let links = self.root().join(format!("pods/{pod_uid}/volumeDevices/kubernetes.io~local-volume"));
        fs::create_dir_all(&links).unwrap();
        let bound = Bound::new(device, node);
        std::os::unix::fs::symlink(link, links.join(pv)).unwrap();
        LocalDevice { _lock: Loop::new(bound.path(), &[]), bound }
    }

    /// Binds a directory read-only as the volume of a pod; gives the path.
    pub fn bind_local(&self, hosted: &Hosted, directory: &Path) -> PathBuf {
        let Hosted { pod_uid, pv, .. } = hosted;
        let at = self.root().join(format!("pods/{pod_uid}/volumes/kubernetes.io~local-volume/{pv}"));
        fs::create_dir_all(&at).unwrap();
        let to = at.to_str().unwrap();
        run("mount", &["--bind", directory.to_str().unwrap(), to]);
        self.mounts.lock().push(at.clone());
        run("mount", &["-o", "remount,bind,ro", to]);
        at
    }

    /// Asserts that a snapshot says in its tags how it was read.
    ///
    /// # Panics
    /// When it does not.
    pub fn says_live(&self, home: &Home, session: &str, path: &Path) {
        let tags = home.run(&["show", session, "--json"]).ok().json()["tags"].clone();
        assert_eq!(tags[labels::CONSISTENCY], labels::LIVE, "{tags}");
        assert_eq!(tags[labels::LOCAL_PATH], path.to_str().unwrap(), "{tags}");
        assert!(tags[labels::SNAPSHOT_HANDLE].is_null() && tags[labels::DRIVER].is_null(), "{tags}");
    }
}
