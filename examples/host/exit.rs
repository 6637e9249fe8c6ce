//! How the command line ends: one exit code for each thing that a script would do next.

use std::error::Error;
use std::process::ExitCode;

/// Why a command did not do what it was asked, and so the program's exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// 1: something went wrong here.
    #[error("{0}")]
    Here(String),
    /// 3: there is no such rental, key or route.
    #[error("{0}")]
    NotFound(String),
    /// 4: refused as things are now (no GPU free, name taken, too late): ask later, or otherwise.
    #[error("{0}")]
    Refused(String),
    /// 4 too: the host pulls the image first; ask again.
    #[error("{0}")]
    Pulling(String),
    /// 5: the request is wrong; it will be wrong again.
    #[error("{0}")]
    Invalid(String),
    /// 6: the API key is missing, unknown, or allows less.
    #[error("{0}")]
    Denied(String),
    /// 7: the host, its database or its engine does not answer: try again.
    #[error("{0}")]
    Unavailable(String),
    /// 8: the rental failed.
    #[error("{0}")]
    Rental(String),
    /// 9: the doctor found something to mend.
    #[error("{0}")]
    ToMend(String),
}

/// The table in `--help`; 2 is clap's, for wrong arguments.
pub const HELP: &str = "Exit codes: 0 done; 1 something went wrong here; 2 wrong arguments; 3 no such rental or key; \
                        4 refused as things are now; 5 invalid request; 6 no valid API key; \
                        7 the host does not answer; 8 the rental failed; 9 the doctor found something to mend.";

impl Failed {
    /// The program's exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Here(_) => 1,
            Self::NotFound(_) => 3,
            Self::Refused(_) | Self::Pulling(_) => 4,
            Self::Invalid(_) => 5,
            Self::Denied(_) => 6,
            Self::Unavailable(_) => 7,
            Self::Rental(_) => 8,
            Self::ToMend(_) => 9,
        })
    }

    /// An error of this program, with its causes.
    pub fn here(error: &(dyn Error + 'static)) -> Self {
        Self::Here(with_causes(error))
    }
}

/// An error and its causes, for the operator.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.map(ToString::to_string).fold(error.to_string(), |text, cause| {
        // Some libraries repeat their cause in their own text.
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
