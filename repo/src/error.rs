//! One error type for the whole crate. Its kind says what a caller can do; its text says what happened, to what, and
//! what to do next. Kinds are API, texts are not.

use std::fmt;
use std::sync::Arc;

/// What went wrong, as far as a caller acts on it. One table in the executable maps kinds to exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The storage cannot be reached, stalls, or answers with a passing fault. Trying again later may help.
    Unavailable,
    /// The storage, or the disk under the cache, is full.
    Full,
    /// There is no repository at this place.
    NoRepository,
    /// No snapshot matches what was asked for.
    NoSnapshot,
    /// An object that was asked for by its key does not exist.
    NotFound,
    /// The key exists already with another content, or somebody else won a race for it.
    Conflict,
    /// Somebody else is using what is needed.
    Busy,
    /// Bytes are not what was written: damage, or a forgery.
    Corrupt,
    /// The repository was written by a newer version, or uses a feature this build does not know. Nothing else: what a
    /// storage or this version cannot do is `Invalid`.
    Unsupported,
    /// The request makes no sense or was refused.
    Invalid,
    /// Wrong password or key, or the storage refuses these credentials.
    Denied,
    /// The caller asked to stop.
    Cancelled,
    /// A mistake in wherry itself.
    Internal,
}

type Source = Arc<dyn std::error::Error + Send + Sync>;

/// An error of the repository.
pub struct Error {
    kind: ErrorKind,
    message: String,
    object: Option<String>,
    source: Option<Source>,
    unclear: bool,
}

/// The result type of the whole crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind; the message names the thing, the cause and the next step, in this order.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), object: None, source: None, unclear: false }
    }

    /// Names the object (its key in the storage) the error is about; the first name given stays.
    #[must_use]
    pub fn with_object(mut self, key: impl fmt::Display) -> Self {
        self.object.get_or_insert_with(|| key.to_string());
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Says that what was asked for may have been done all the same, or will be: an earlier attempt had no answer, or the last step failed
    /// when it was done.
    #[must_use]
    pub(crate) fn unclear(self) -> Self {
        Self { unclear: true, ..self }
    }

    /// True when what was asked for may have been done although it failed. So it is of all that is `Unavailable`.
    pub fn is_unclear(&self) -> bool {
        self.unclear || self.kind == ErrorKind::Unavailable
    }

    /// Puts what was being done in front of the message: `context: message`.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// Puts what to do next behind the message: `message; next`.
    #[must_use]
    pub fn advise(mut self, next: &str) -> Self {
        self.message = format!("{}; {next}", self.message);
        self
    }

    /// The same error for another caller.
    pub(crate) fn again(&self) -> Self {
        Self {
            kind: self.kind,
            message: self.message.clone(),
            object: self.object.clone(),
            source: self.source.clone(),
            unclear: self.unclear,
        }
    }

    /// What is lost for good, said by `message`. Damage on a disk of this machine stays what it is: it may be the cable.
    pub(crate) fn instead(&self, message: String) -> Self {
        let kind = if self.kind == ErrorKind::NotFound { ErrorKind::Corrupt } else { self.kind };
        Self { kind, message, object: None, source: self.source.clone(), unclear: self.unclear }
    }

    /// The same as damage, for who goes on without what is lost: a sector that a local disk cannot read is no answer that is
    /// late.
    pub(crate) fn into_damage(self) -> Self {
        Self { kind: ErrorKind::Corrupt, ..self }
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The key of the object it is about, when there is one.
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// The text alone.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Damage in the bytes of an object.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// A request that makes no sense or is refused.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A mistake in wherry itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.object {
            Some(key) if !self.message.contains(key.as_str()) => write!(f, " (object {key})"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        match &self.source {
            Some(source) => write!(f, " [{source:?}]"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}
