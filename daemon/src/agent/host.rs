//! The volume on the host, where the kubelet has published it for the hosting pod. It is never found by what happens to lie
//! there: an unmounted volume is an empty folder of the node, of which a backup would "succeed" and which a restore would fill.

use anyhow::Result;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use wherry_block::{Engine, Source};
use wherry_repo::Error;

/// A driver may round a volume up; one that is larger by more than this, and by a tenth, is another one.
const ROUNDED: u64 = 1 << 30;
/// What an encrypted volume may keep for itself of the size that it is said to have, in bytes: the header of LUKS 2
/// (ceph-csi, issue 4582).
pub(crate) const HEADER: u64 = 16 << 20;

/// The plugin of the kubelet that publishes a volume: it says where, and what it has put there. Paths as in Kubernetes 1.34
/// (`pkg/volume/csi`, `pkg/volume/local`, `pkg/volume/util`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plugin<'a> {
    /// A CSI driver.
    Csi,
    /// A local PV of that path on the node.
    Local {
        /// `spec.local.path`.
        path: &'a str,
    },
}

impl Plugin<'_> {
    /// Its folder among those of a pod.
    fn folder(self) -> &'static str {
        match self {
            Self::Csi => "kubernetes.io~csi",
            Self::Local { .. } => "kubernetes.io~local-volume",
        }
    }

    /// Where the device of a pod is: a driver puts it there, or the kubelet that of a local volume.
    fn node(self, pod_uid: &str, pv: &str) -> String {
        match self {
            Self::Csi => format!("plugins/kubernetes.io/csi/volumeDevices/publish/{pv}/{pod_uid}"),
            Self::Local { .. } => self.bound(pod_uid, pv),
        }
    }

    /// Where the kubelet itself binds the device for a pod, before it starts that.
    fn bound(self, pod_uid: &str, pv: &str) -> String {
        match self {
            Self::Csi => format!("plugins/kubernetes.io/csi/volumeDevices/{pv}/dev/{pod_uid}"),
            Self::Local { .. } => format!("plugins/kubernetes.io~local-volume/volumeDevices/{pv}/{pod_uid}"),
        }
    }

    /// Where it mounts the filesystem for a pod.
    fn mount(self, pod_uid: &str, pv: &str) -> String {
        let last = if self == Self::Csi { "/mount" } else { "" };
        format!("pods/{pod_uid}/volumes/{}/{pv}{last}", self.folder())
    }
}

/// A volume that is published for a pod. What is opened through it is what was looked at, whatever happens to the names.
#[derive(Debug)]
pub(crate) struct Published {
    fd: OwnedFd,
    /// Where it lies, for people.
    shown: String,
}

/// The names that lead to a volume come from the API server, and are none but names.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !matches!(text, "." | "..") && !text.contains('/')
}

fn refused(text: String) -> anyhow::Error {
    Error::invalid(text).into()
}

/// There is no volume where it should be, and nothing else: it may still come. After a reboot the API server says that a pod
/// runs before the kubelet has published anything for it.
#[derive(Debug)]
pub(crate) struct NotPublished(String);

impl std::fmt::Display for NotPublished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the volume is not published: {}", self.0)
    }
}

impl std::error::Error for NotPublished {}

/// What it means that something at a path cannot be opened.
fn unopened(shown: impl std::fmt::Display, e: Errno) -> anyhow::Error {
    match e {
        Errno::NOENT => NotPublished(format!("{shown}: {e}")).into(),
        _ => refused(format!("{shown} cannot be opened as the volume: {e}")),
    }
}

/// A look at what is below the kubelet's root: no link is followed, and nothing leads out of it.
struct Kubelet<'a> {
    root: &'a Path,
    fd: OwnedFd,
}

impl<'a> Kubelet<'a> {
    fn open(root: &'a Path, names: [&str; 2]) -> Result<Self> {
        if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
            return Err(refused(format!("{name:?} names no volume: pod or PV have no such name")));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| {
            let text = format!(
                "the root of the kubelet, {}, cannot be opened ({e}): set kubeletRoot in ConfigMap wherry, and mount it into the \
                 agent at the same path",
                root.display()
            );
            refused(text)
        })?;
        Ok(Self { root, fd })
    }

    fn at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(
            &self.fd,
            path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags,
            Mode::empty(),
            resolve,
        )
    }

    fn whole(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The kubelet has bound this device since the node began. A driver may make a node for it and not bind it: that is still there
    /// after a reboot, and its number by then that of another volume. A mount is of this boot.
    ///
    /// # Errors
    /// [`NotPublished`] when it has not; `Invalid` when that cannot be seen.
    fn has_bound(&self, path: &str, device: u64) -> Result<()> {
        let shown = self.whole(path).display().to_string();
        let fd = self.at(path, OFlags::empty()).map_err(|e| unopened(&shown, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| refused(format!("{shown} cannot be looked at: {e}")))?;
        let is_same = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice && stat.st_rdev == device;
        if is_same && is_mount_root(&fd, &shown)? {
            return Ok(());
        }
        Err(NotPublished(format!("the kubelet has not bound the device at {shown} since the node began")).into())
    }
}

/// # Errors
/// `Invalid` when the kernel does not say it.
fn is_mount_root(fd: &OwnedFd, shown: &str) -> Result<bool> {
    let look = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
        .map_err(|e| refused(format!("{shown} cannot be looked at: {e}")))?;
    if !look.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        let text = "this kernel does not say what a mount point is: Linux 5.8 or newer is needed";
        return Err(refused(text.to_owned()));
    }
    Ok(look.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

impl Published {
    /// The device that the kubelet has published for the pod. Not opened for reading or writing yet.
    ///
    /// # Errors
    /// [`NotPublished`] when there is none; `Invalid` when anything else is in its place.
    pub(crate) fn device(root: &Path, plugin: Plugin<'_>, pod_uid: &str, pv: &str) -> Result<Self> {
        let kubelet = Kubelet::open(root, [pod_uid, pv])?;
        let folder = format!("pods/{pod_uid}/volumeDevices/{}", plugin.folder());
        let node = plugin.node(pod_uid, pv);
        let link = kubelet.whole(&format!("{folder}/{pv}"));
        let (shown, wanted) = (link.display(), kubelet.whole(&node));
        let leads = kubelet
            .at(&folder, OFlags::DIRECTORY)
            .and_then(|folder| rustix::fs::readlinkat(folder, pv, Vec::new()))
            .map_err(|e| unopened(&shown, e))?;
        let leads = Path::new(OsStr::from_bytes(leads.as_bytes()));
        if plugin == Plugin::Csi && leads != wanted {
            return Err(refused(format!("{shown} leads to {}, and not to {}", leads.display(), wanted.display())));
        }
        let shown = wanted.display().to_string();
        let fd = kubelet.at(&node, OFlags::empty()).map_err(|e| unopened(&shown, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| refused(format!("{shown} cannot be looked at: {e}")))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => {
                if let Plugin::Local { path } = plugin {
                    is_of(path, leads, stat.st_rdev, &shown)?;
                }
                kubelet.has_bound(&plugin.bound(pod_uid, pv), stat.st_rdev)?;
                Ok(Self { fd, shown })
            }
            // The driver makes a file, and binds the device to it.
            FileType::RegularFile => Err(NotPublished(format!("{shown} is a file, and no block device")).into()),
            _ => Err(refused(format!("{shown} is no block device"))),
        }
    }

    /// The filesystem that the kubelet has mounted for the pod.
    ///
    /// # Errors
    /// [`NotPublished`] when none is mounted there; `Invalid` when anything else is in its place.
    pub(crate) fn filesystem(root: &Path, plugin: Plugin<'_>, pod_uid: &str, pv: &str) -> Result<Self> {
        let kubelet = Kubelet::open(root, [pod_uid, pv])?;
        // Of a directory the kubelet binds that itself; only of a device it makes this first, and has mounted it by then.
        let second = format!("plugins/kubernetes.io/local-volume/mounts/{pv}");
        if plugin != Plugin::Csi && kubelet.at(&second, OFlags::DIRECTORY).is_ok() {
            let text = format!(
                "the path of the local volume is a device, which the kubelet has mounted a second time at {}: that may write to it. \
                 Mount the device on the node yourself and make it a local PV of that directory, or use volumeMode Block",
                kubelet.whole(&second).display()
            );
            return Err(refused(text));
        }
        let path = plugin.mount(pod_uid, pv);
        let shown = kubelet.whole(&path).display().to_string();
        let fd = kubelet.at(&path, OFlags::DIRECTORY).map_err(|e| unopened(&shown, e))?;
        if !is_mount_root(&fd, &shown)? {
            let text = format!("{shown} is a folder of the node: no volume is mounted there");
            return Err(NotPublished(text).into());
        }
        Ok(Self { fd, shown })
    }

    /// A path of this very device or directory, as long as this lives.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// Where it lies.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Opens the device to read it.
    ///
    /// # Errors
    /// `Invalid` when it has not the size that it should have.
    pub(crate) fn source(&self, engine: Engine, size: &Expected) -> anyhow::Result<Source> {
        let source = Source::open(&self.path(), engine)?;
        size.check(&self.shown, source.geometry().size)?;
        Ok(source)
    }
}

/// The size that a device should have, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// What it has to hold.
    pub(crate) least: u64,
    /// What the driver says that it has; none if it does not say it.
    pub(crate) capacity: Option<u64>,
}

impl Expected {
    /// # Errors
    /// `Invalid` when a device of that size is another one.
    pub(crate) fn check(&self, shown: &str, size: u64) -> Result<()> {
        let capacity = self.capacity.unwrap_or(self.least);
        let least = self.least.max(capacity.saturating_sub(HEADER)).max(1);
        if size < least {
            let text = format!("{shown} has {size} bytes, and {least} are needed: it is another volume");
            return Err(refused(text));
        }
        let said = self.least.max(capacity);
        let most = said.saturating_add(ROUNDED.max(said / 10));
        if self.capacity.is_some() && size > most {
            return Err(refused(format!("{shown} has {size} bytes, and the volume {capacity}: it is another one")));
        }
        Ok(())
    }
}

/// The link in the pod's folder leads to the path of the local volume as the node resolves it: to that path, or, of a link among
/// the devices, to the device that was bound.
///
/// # Errors
/// `Invalid` when it leads to anything else.
fn is_of(path: &str, leads: &Path, device: u64, shown: &str) -> Result<()> {
    let same = || {
        let found = rustix::fs::stat(leads).ok().filter(|_| leads.starts_with("/dev"));
        found.is_some_and(|found| {
            FileType::from_raw_mode(found.st_mode) == FileType::BlockDevice && found.st_rdev == device
        })
    };
    // What is among the devices has to be the same one, whatever it is called.
    if same() || (leads == Path::new(path) && !leads.starts_with("/dev")) {
        return Ok(());
    }
    Err(refused(format!("{shown} is not the device of {path}: the kubelet has it from {}", leads.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_size_is_that_of_the_volume_or_rounded_up() {
        const GIB: u64 = 1 << 30;
        let of = |least, capacity, size| Expected { least, capacity }.check("x", size).is_ok();
        assert!(of(GIB, Some(GIB), GIB) && of(GIB, Some(GIB), GIB + 4096) && of(GIB, None, 50 * GIB));
        assert!(!of(GIB, Some(GIB), GIB - 512) && !of(GIB, Some(2 * GIB), GIB) && !of(2 * GIB, None, GIB));
        assert!(!of(GIB, Some(GIB), 3 * GIB) && of(100 * GIB, Some(100 * GIB), 105 * GIB));
        assert!(!of(100 * GIB, Some(100 * GIB), 111 * GIB));
        // An encrypted one keeps its header for itself; what has to be held has to be.
        let header = 16 << 20;
        assert!(of(GIB - header, Some(GIB), GIB - header) && of(0, Some(GIB), GIB - header));
        assert!(!of(GIB, Some(GIB), GIB - header) && !of(0, Some(GIB), GIB - 4 * header) && !of(0, Some(header), 0));
    }

    #[test]
    fn what_is_not_published_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        // What may still come, and what is wrong for good.
        let of = |found: Result<Published>| {
            let error = found.unwrap_err();
            (error.is::<NotPublished>(), error.to_string())
        };
        let said = |found: Result<Published>| match of(found) {
            (false, text) => text,
            (true, text) => panic!("it is waited for: {text}"),
        };
        let waits = |found: Result<Published>| match of(found) {
            (true, text) => text,
            (false, text) => panic!("it is not waited for: {text}"),
        };
        let device = || said(Published::device(root, Plugin::Csi, "p1", "pv1"));
        let coming = || waits(Published::device(root, Plugin::Csi, "p1", "pv1"));
        assert!(coming().contains("not published"), "{}", coming());
        let links = root.join("pods/p1/volumeDevices/kubernetes.io~csi");
        let nodes = root.join("plugins/kubernetes.io/csi/volumeDevices/publish/pv1");
        std::fs::create_dir_all(&links).unwrap();
        std::fs::create_dir_all(&nodes).unwrap();
        let link = |to: &Path| {
            let _ = std::fs::remove_file(links.join("pv1"));
            symlink(to, links.join("pv1")).unwrap();
        };
        for elsewhere in [Path::new("/dev/loop0"), &root.join("x"), &nodes.join("p2"), Path::new("../../../p1")] {
            link(elsewhere);
            assert!(device().contains("and not to"), "{}", device());
        }
        link(&nodes.join("p1"));
        assert!(coming().contains("not published"), "{}", coming());
        std::fs::write(nodes.join("p1"), "").unwrap();
        assert!(coming().contains("no block device"), "{}", coming());
        std::fs::remove_file(nodes.join("p1")).unwrap();
        std::fs::create_dir(nodes.join("p1")).unwrap();
        assert!(device().contains("no block device"), "{}", device());
        std::fs::remove_dir(nodes.join("p1")).unwrap();
        // A link in the place of the node is not followed.
        symlink("/dev/null", nodes.join("p1")).unwrap();
        assert!(device().contains("no block device"), "{}", device());
        for bad in ["..", "", "a/b", "."] {
            assert!(said(Published::device(root, Plugin::Csi, bad, "pv1")).contains("names no volume"));
            assert!(said(Published::filesystem(root, Plugin::Csi, "p1", bad)).contains("names no volume"));
        }
        // An empty folder of the node, in the place of a volume.
        let mount = root.join("pods/p1/volumes/kubernetes.io~csi/pv1/mount");
        let filesystem = || Published::filesystem(root, Plugin::Csi, "p1", "pv1");
        assert!(waits(filesystem()).contains("not published"));
        std::fs::create_dir_all(&mount).unwrap();
        assert!(waits(filesystem()).contains("a folder of the node"));
        std::fs::remove_dir(&mount).unwrap();
        symlink("/proc", &mount).unwrap();
        assert!(said(filesystem()).contains("cannot be opened"));
    }

    /// The kubelet has other places for local volumes, and the link leads to the device itself.
    #[test]
    fn a_local_volume_is_looked_for_where_its_plugin_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let local = Plugin::Local { path: "/dev/loop7" };
        let device = || Published::device(root, local, "p1", "pv1").unwrap_err();
        assert!(device().is::<NotPublished>());
        let links = root.join("pods/p1/volumeDevices/kubernetes.io~local-volume");
        let nodes = root.join("plugins/kubernetes.io~local-volume/volumeDevices/pv1");
        std::fs::create_dir_all(&links).unwrap();
        std::fs::create_dir_all(&nodes).unwrap();
        symlink("/dev/loop7", links.join("pv1")).unwrap();
        assert!(device().is::<NotPublished>(), "{}", device());
        std::fs::write(nodes.join("p1"), "").unwrap();
        assert!(device().is::<NotPublished>(), "bound it is a device: {}", device());

        let (null, zero) = (Path::new("/dev/null"), "/dev/zero");
        assert!(is_of(zero, null, 1, "x").unwrap_err().to_string().contains("not the device of /dev/zero"));
        // Elsewhere than among the devices nothing can be looked at from here, and the name has to be the same.
        assert!(is_of("/srv/a", Path::new("/srv/a"), 1, "x").is_ok());
        assert!(is_of("/srv/a", Path::new("/srv/b"), 1, "x").is_err());

        let mount = root.join("pods/p1/volumes/kubernetes.io~local-volume/pv1");
        let filesystem = || Published::filesystem(root, local, "p1", "pv1").unwrap_err();
        assert!(filesystem().is::<NotPublished>());
        std::fs::create_dir_all(&mount).unwrap();
        assert!(filesystem().to_string().contains("a folder of the node"), "{}", filesystem());
        std::fs::create_dir_all(root.join("plugins/kubernetes.io/local-volume/mounts/pv1")).unwrap();
        let said = filesystem();
        assert!(!said.is::<NotPublished>() && said.to_string().contains("mounted a second time"), "{said}");
    }
}
