//! The meaning of Docker's errors.

use bollard::errors::Error;
use gpurent_access::paths::KIT;
use gpurent_core::model::HostPort;
use gpurent_core::runtime::RuntimeError;

/// The engine could not be asked.
pub(crate) fn unavailable(error: Error) -> RuntimeError {
    RuntimeError::Unavailable(Box::new(error))
}

/// The status and message of an answer that says no; `None` where there was no answer.
pub(crate) fn refusal(error: &Error) -> Option<(u16, &str)> {
    match error {
        Error::DockerResponseServerError { status_code, message } => Some((*status_code, message)),
        _ => None,
    }
}

/// Whether the engine says that there is no such thing.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(refusal(error), Some((404, _)))
}

/// Whether a container did not start because the kit's program, its entry point, is not in its volume.
pub(crate) fn is_without_kit(error: &Error) -> bool {
    refusal(error).is_some_and(|(_, text)| text.contains(&format!("stat {KIT}/")) && text.contains("no such file"))
}

/// Sorts an error of a container operation.
pub(crate) fn classify(error: Error, ports: &[HostPort]) -> RuntimeError {
    let Some((status, message)) = refusal(&error) else { return unavailable(error) };
    let message = message.to_ascii_lowercase();
    if status == 503 {
        return unavailable(error);
    }
    if status == 404 && message.contains("no such container") {
        return RuntimeError::Missing;
    }
    if message.contains("could not select device driver") {
        return RuntimeError::GpuRuntimeMissing(Box::new(error));
    }
    if let Some(condition) = unmet_requirement(&message) {
        return RuntimeError::DriverTooOld { condition };
    }
    let is_about_a_port = message.contains("port is already allocated") || message.contains("address already in use");
    match port_in(&message, ports) {
        Some(port) if is_about_a_port => RuntimeError::PortTaken { port, source: Box::new(error) },
        _ => RuntimeError::Refused(Box::new(error)),
    }
}

/// The condition of an image that the driver does not meet, as NVIDIA's container library tells it: "requirement error:
/// unsatisfied condition: cuda>=12.6, please update your driver to a newer version"
/// (<https://github.com/NVIDIA/libnvidia-container/blob/main/src/cli/common.c>). What an image wrote there is not passed on.
fn unmet_requirement(message: &str) -> Option<String> {
    let (_, condition) = message.split_once("unsatisfied condition: ")?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "<>=!. ".contains(c);
    let condition: String = condition.chars().take_while(|c| is_plain(*c)).take(64).collect();
    Some(condition.trim().to_owned())
}

/// Which of our ports a message is about: "Bind for 0.0.0.0:22001 failed: port is already allocated".
fn port_in(message: &str, ports: &[HostPort]) -> Option<HostPort> {
    let named = |port: &&HostPort| {
        let text = format!(":{port}");
        message
            .match_indices(&text)
            .any(|(at, _)| !message[at + text.len()..].starts_with(|c: char| c.is_ascii_digit()))
    };
    ports.iter().find(named).or_else(|| ports.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> Error {
        Error::DockerResponseServerError { status_code, message: message.to_owned() }
    }

    #[test]
    fn answers_of_docker_20_10_are_understood() {
        let ports = [2200u16, 22001].map(|port| HostPort::try_from(port).unwrap());
        let taken = "driver failed programming external connectivity on endpoint x: Bind for 0.0.0.0:22001 failed: port is already allocated";
        assert!(
            matches!(classify(answer(500, taken), &ports), RuntimeError::PortTaken { port, .. } if port.get() == 22001)
        );
        let listened =
            "driver failed: Error starting userland proxy: listen tcp4 0.0.0.0:2200: bind: address already in use";
        assert!(
            matches!(classify(answer(500, listened), &ports), RuntimeError::PortTaken { port, .. } if port.get() == 2200)
        );
        let old = "OCI runtime create failed: nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.6, please update your driver to a newer version, or use an earlier cuda container: unknown";
        assert!(
            matches!(classify(answer(500, old), &ports), RuntimeError::DriverTooOld { condition } if condition == "cuda>=12.6")
        );
        let driver = r#"could not select device driver "" with capabilities: [[gpu]]"#;
        assert!(matches!(classify(answer(500, driver), &ports), RuntimeError::GpuRuntimeMissing(_)));
        assert!(matches!(classify(answer(404, "No such container: x"), &ports), RuntimeError::Missing));
        assert!(matches!(classify(answer(400, "bad"), &ports), RuntimeError::Refused(_)));
        assert!(matches!(classify(Error::RequestTimeoutError, &ports), RuntimeError::Unavailable(_)));
    }
}
