//! The spec that one container is told at its start, and again when its credential is replaced: one file, written by the host.

use crate::wire::Fields;

/// How a renter gets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// By a password, of which this is the crypt(3) hash.
    Password(String),
    /// By the private half of one of these keys, a line of `authorized_keys` each.
    Keys(Vec<String>),
}

/// Which program is process 1 of the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessOne {
    /// The image's, where it looks like one that has to be; else ours.
    #[default]
    Detect,
    /// The image's.
    Image,
    /// The host's own.
    Access,
}

/// The greeting that a renter reads at login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// The rental's name.
    pub name: String,
    /// Paid time that was left at the start, in seconds; `None` where it has no fixed end.
    pub seconds: Option<u64>,
    /// The folder that outlives the container.
    pub survives: Option<String>,
}

/// The two halves of a question that only the host and this container know: so a server that merely speaks SSH on
/// the rental's port is told from this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The host's words.
    pub question: String,
    /// The answer that it hears then.
    pub answer: String,
}

/// Everything a container's entry point has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The user that the renter logs in as; made where the image has none.
    pub login: String,
    /// How the renter gets in.
    pub credential: Credential,
    /// The server's private keys, in OpenSSH's form.
    pub host_keys: Vec<String>,
    /// The image's USER.
    pub program_user: String,
    /// Whether neither image nor renter set HOME: then what the engine set is root's, not the program's.
    pub home_is_the_engines: bool,
    /// The image's STOPSIGNAL.
    pub stop_signal: String,
    /// Which program is process 1.
    pub process_one: ProcessOne,
    /// Whether a named user may become root by `sudo`.
    pub sudo: bool,
    /// How the host makes sure that it reaches this container.
    pub tokens: Tokens,
    /// The greeting that the renter reads at login.
    pub greeting: Greeting,
}

const PASSWORD: &str = "password-hash";
const KEY: &str = "authorized-key";
const HOST_KEY: &str = "host-key";

impl Spec {
    /// The file's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Fields::default();
        fields.push("login", &self.login);
        match &self.credential {
            Credential::Password(hash) => fields.push(PASSWORD, hash),
            Credential::Keys(keys) => keys.iter().for_each(|key| fields.push(KEY, key)),
        }
        self.host_keys.iter().for_each(|key| fields.push(HOST_KEY, key));
        fields.push("program-user", &self.program_user);
        fields.push("home-is-the-engines", if self.home_is_the_engines { "yes" } else { "no" });
        fields.push("stop-signal", &self.stop_signal);
        fields.push(
            "process-one",
            match self.process_one {
                ProcessOne::Detect => "detect",
                ProcessOne::Image => "image",
                ProcessOne::Access => "access",
            },
        );
        fields.push("sudo", if self.sudo { "yes" } else { "no" });
        fields.push("question", &self.tokens.question);
        fields.push("answer", &self.tokens.answer);
        fields.push("name", &self.greeting.name);
        if let Some(seconds) = self.greeting.seconds {
            fields.push("seconds", &seconds.to_string());
        }
        if let Some(survives) = &self.greeting.survives {
            fields.push("survives", survives);
        }
        fields.encode()
    }

    /// The reverse; `None` for bytes that [`Spec::encode`] never makes. Fields of a later version are left alone.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fields = Fields::decode(bytes)?;
        let credential = match fields.get(PASSWORD) {
            Some(hash) => Credential::Password(hash.to_owned()),
            None => Credential::Keys(fields.all(KEY).map(str::to_owned).collect()),
        };
        let text = |name| fields.get(name).unwrap_or_default().to_owned();
        Some(Self {
            login: fields.get("login")?.to_owned(),
            credential,
            host_keys: fields.all(HOST_KEY).map(str::to_owned).collect(),
            program_user: text("program-user"),
            home_is_the_engines: fields.get("home-is-the-engines") == Some("yes"),
            stop_signal: text("stop-signal"),
            process_one: match fields.get("process-one") {
                Some("image") => ProcessOne::Image,
                Some("access") => ProcessOne::Access,
                _ => ProcessOne::Detect,
            },
            sudo: fields.get("sudo") == Some("yes"),
            tokens: Tokens { question: text("question"), answer: text("answer") },
            greeting: Greeting {
                name: text("name"),
                seconds: fields.get("seconds").and_then(|seconds| seconds.parse().ok()),
                survives: fields.get("survives").map(str::to_owned),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_its_file() {
        let spec = Spec {
            login: "gpu-user".to_owned(),
            credential: Credential::Keys(vec!["ssh-ed25519 A".to_owned(), "ssh-rsa B".to_owned()]),
            host_keys: vec!["-----BEGIN\nx\n-----END\n".to_owned()],
            program_user: "app:www".to_owned(),
            home_is_the_engines: true,
            stop_signal: "SIGRTMIN+3".to_owned(),
            process_one: ProcessOne::Image,
            sudo: true,
            tokens: Tokens { question: "q".to_owned(), answer: "a".to_owned() },
            greeting: Greeting {
                name: "mine".to_owned(),
                seconds: Some(7200),
                survives: Some("/workspace".to_owned()),
            },
        };
        assert_eq!(Spec::decode(&spec.encode()), Some(spec.clone()));
        let with_password = Spec { credential: Credential::Password("$6$x".to_owned()), ..spec };
        assert_eq!(Spec::decode(&with_password.encode()), Some(with_password));
        assert_eq!(Spec::decode(b"login 4\nro"), None);
    }
}
