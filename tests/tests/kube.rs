//! Controller and agent on a real API server: etcd and kube-apiserver, with the account and the rights that are deployed, and
//! everything else of a cluster played.
#![forbid(unsafe_code)]

#[path = "kube/agent.rs"]
mod agent;
#[path = "kube/agent_blocks.rs"]
mod agent_blocks;
#[path = "kube/agent_ends.rs"]
mod agent_ends;
#[path = "kube/agent_mends.rs"]
mod agent_mends;
#[path = "kube/agent_no_ring.rs"]
mod agent_no_ring;
#[path = "kube/agent_nodes.rs"]
mod agent_nodes;
#[path = "kube/agent_refusals.rs"]
mod agent_refusals;
#[path = "kube/agent_whole.rs"]
mod agent_whole;
#[path = "kube/alerts.rs"]
mod alerts;
#[path = "kube/bases.rs"]
mod bases;
#[path = "kube/chart.rs"]
mod chart;
#[path = "kube/deploy.rs"]
mod deploy;
#[path = "kube/drain.rs"]
mod drain;
#[path = "kube/jobs.rs"]
mod jobs;
#[path = "kube/lease.rs"]
mod lease;
#[path = "kube/local.rs"]
mod local;
#[path = "kube/located.rs"]
mod located;
#[path = "kube/many.rs"]
mod many;
#[path = "kube/metrics.rs"]
mod metrics;
#[path = "kube/policies.rs"]
mod policies;
#[path = "kube/providers.rs"]
mod providers;
#[path = "kube/replicas.rs"]
mod replicas;
#[path = "kube/rights.rs"]
mod rights;
#[path = "kube/scenes.rs"]
mod scenes;
#[path = "kube/settings.rs"]
mod settings;
#[path = "kube/slim.rs"]
mod slim;
#[path = "kube/trust.rs"]
mod trust;
#[path = "kube/two_clusters.rs"]
mod two_clusters;
#[path = "kube/verbs.rs"]
mod verbs;

use parking_lot::{Mutex, MutexGuard};
use std::sync::{Arc, Weak};
use wherry_tests::cluster::Server;
use wherry_tests::cluster::real::Real;
use wherry_tests::hosted::Stand;
use wherry_tests::kube::Kube;
use wherry_tests::seaweed::Seaweed;

/// One server for all tests that run at a time; it ends with the last of them, also when that one fails.
static SHARED: Mutex<Weak<Real>> = Mutex::new(Weak::new());
/// One storage, too; each test has a prefix of its own.
static STORAGE: Mutex<Weak<Seaweed>> = Mutex::new(Weak::new());
/// Scenes use the same names, so one has the server to itself.
static STAGE: Mutex<()> = Mutex::new(());

fn real() -> Arc<Real> {
    let mut shared = SHARED.lock();
    if let Some(real) = shared.upgrade() {
        return real;
    }
    let real = Arc::new(Real::new(Arc::new(Kube::start())));
    *shared = Arc::downgrade(&real);
    real
}

/// A namespace of Velero with an agent's surroundings.
fn stand(namespace: &str) -> Stand {
    stand_on(seaweed(), namespace)
}

/// The same with a storage of its own.
fn stand_on(seaweed: Arc<Seaweed>, namespace: &str) -> Stand {
    Stand::new(real(), seaweed, namespace)
}

fn seaweed() -> Arc<Seaweed> {
    let mut shared = STORAGE.lock();
    shared.upgrade().unwrap_or_else(|| {
        let seaweed = Arc::new(Seaweed::start());
        *shared = Arc::downgrade(&seaweed);
        seaweed
    })
}

/// The server with nothing on it, for one test.
struct Stage {
    // In this order: the next one gets the stage before the server could end.
    _turn: MutexGuard<'static, ()>,
    real: Arc<Real>,
}

impl Stage {
    fn enter() -> Self {
        let real = real();
        Self { _turn: STAGE.lock(), real }
    }

    fn empty(&self) -> Server {
        Server::on(&self.real)
    }
}
