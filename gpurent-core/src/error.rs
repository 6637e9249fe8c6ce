//! The errors that all parts share: of input that is refused, and of whatever an adapter met.

/// Input that was refused before anything was done.
///
/// The reason never repeats the value: it may be a secret, or hostile to a terminal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ValidationError {
    field: String,
    reason: String,
}

impl ValidationError {
    /// Refuses `field` because of `reason`.
    #[must_use]
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// The field's name as the domain calls it; a protocol with other names maps it.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The reason, as a phrase that follows the field's name.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The same refusal under another protocol's name for the field.
    #[must_use]
    pub fn named(self, field: impl Into<String>) -> Self {
        Self { field: field.into(), ..self }
    }
}

/// A boxed cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
