//! The features of a repository: each is added before it is first used, or all at once by an upgrade.

use crate::format::clear::{self, Config, Feature};
use crate::{ErrorKind, Repository, Result};

impl Repository {
    /// W2 of trees: says to all who open the repository from now on that it may have this. Ok means that this is durable.
    pub(crate) fn enable(&self, feature: Feature) -> Result<()> {
        loop {
            let (n, mut config) = self.newest_config()?;
            if feature.is_in(&config) {
                return Ok(());
            }
            feature.add(&mut config);
            match self.create_config(n.saturating_add(1), config) {
                // Somebody else was first, whatever for.
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                created => return created,
            }
        }
    }

    /// Adds every feature that this build knows and the repository lacks, and gives these, and the configuration that counts
    /// then. Does nothing when it has them all.
    pub fn upgrade(&self) -> Result<(Vec<Feature>, Config)> {
        loop {
            let (n, mut config) = self.newest_config()?;
            let lacks: Vec<Feature> = clear::KNOWN.into_iter().filter(|feature| !feature.is_in(&config)).collect();
            if lacks.is_empty() {
                return Ok((lacks, config));
            }
            lacks.iter().for_each(|feature| feature.add(&mut config));
            match self.create_config(n.saturating_add(1), config) {
                // Somebody else was first, whatever for.
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                created => {
                    created?;
                    return Ok((lacks, self.newest_config()?.1));
                }
            }
        }
    }
}
