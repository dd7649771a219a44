//! What differs between the providers: the meaning of answers, what a user can do about them, and what a protocol lacks.

use super::http::Refused;
use crate::ErrorKind;

/// Whose protocol it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// Amazon S3 and its compatibles.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Google,
}

const ROOM: &str = "; make room there, or raise the limit";

const HEARSAY: &str =
    "; that is no answer of a storage: see what stands before it (a proxy, an ingress), and the address";

impl Service {
    /// Azure answers no requests for the last bytes of an object.
    pub(super) fn has_suffix_ranges(self) -> bool {
        self != Self::Azure
    }

    /// What to do without a bucket.
    pub(super) fn no_bucket(self) -> &'static str {
        match self {
            Self::S3 => "; make the bucket first, or check its name and the endpoint",
            Self::Azure => "; make the container first, or check its name and the account",
            Self::Google => "; make the bucket first, or check its name",
        }
    }

    /// What to do about credentials that are refused.
    pub(super) fn credentials(self) -> &'static str {
        match self {
            Self::S3 => "; check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE) and what they may do",
            Self::Azure => {
                "; check the credentials (AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID) and what \
                 they may do"
            }
            Self::Google => "; check the credentials (GOOGLE_APPLICATION_CREDENTIALS) and what they may do",
        }
    }

    fn elsewhere(self) -> &'static str {
        match self {
            Self::S3 => "; the bucket is elsewhere: check --s3-region and --s3-endpoint",
            Self::Azure => "; the container is elsewhere: check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ENDPOINT",
            Self::Google => "; the bucket is elsewhere: check STORAGE_EMULATOR_HOST",
        }
    }

    /// What to do about the server's certificate; `None` where that is not what failed.
    pub(super) fn untrusted(self, text: &str) -> Option<&'static str> {
        let says = |word: &str| text.contains(word);
        Some(match (says("certificate"), self) {
            (false, _) => return None,
            (true, Self::S3) if says("not valid for name") => {
                "name a host that it is for: --s3-endpoint, config key s3Url of a BackupStorageLocation"
            }
            (true, Self::Azure) if says("not valid for name") => {
                "name a host that it is for: AZURE_STORAGE_ENDPOINT, config key storageAccountURI of a BackupStorageLocation"
            }
            (true, _) if says("expired") || says("not valid yet") => "renew it, or set the clock of this machine",
            (true, _) => {
                "give the authority that signed it: --s3-ca-file, caCert or caCertRef of a BackupStorageLocation"
            }
        })
    }

    /// What kind of failure an answer is, and what to do about it.
    pub(super) fn meaning(self, refused: &Refused) -> (ErrorKind, &'static str) {
        let Refused { status, code, message, .. } = refused;
        let says = |word: &str| code.contains(word) || message.contains(word);
        match status {
            507 => (ErrorKind::Full, ROOM),
            // Others speak of a quota of requests.
            400 | 403 | 413 | 500 if says("Quota") || says("quota") || says("StorageFull") => (ErrorKind::Full, ROOM),
            // Some servers make a bucket at the first write: until then it is empty.
            404 if refused.is_hearsay() => (ErrorKind::Unavailable, HEARSAY),
            404 if says("NoSuchBucket") || says("ContainerNotFound") => (ErrorKind::NotFound, self.no_bucket()),
            404 => (ErrorKind::NotFound, ""),
            // Azure says 409 of much that is no conflict between two writers.
            409 if says("ContainerBeingDeleted") => (ErrorKind::Unavailable, ""),
            409 if says("BlobImmutable") || says("AccountIsDisabled") => (ErrorKind::Denied, ""),
            304 | 409 | 412 => (ErrorKind::Conflict, ""),
            416 => (ErrorKind::Corrupt, ""),
            _ if says("RequestTimeTooSkewed") => (ErrorKind::Denied, "; set the clock of this machine"),
            _ if says("ExpiredToken") || says("TokenRefreshRequired") => {
                (ErrorKind::Denied, "; renew the session token")
            }
            401 | 403 => (ErrorKind::Denied, self.credentials()),
            400 if says("RequestTimeout") || says("IncompleteBody") || says("BadDigest") || says("SHA256Mismatch") => {
                (ErrorKind::Unavailable, "")
            }
            405 | 501 => (ErrorKind::Invalid, "; the storage lacks what is needed, see `wherry probe`"),
            301 | 302 | 308 => (ErrorKind::Invalid, self.elsewhere()),
            307 | 408 | 425 | 429 | 500..=599 => (ErrorKind::Unavailable, ""),
            _ if says("AuthorizationHeaderMalformed") => (ErrorKind::Invalid, "; check --s3-region"),
            _ => (ErrorKind::Invalid, ""),
        }
    }
}
