//! Tells what happens: as a timeline for people, or as JSON lines for programs.

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use gpurent_core::host::Access;
use gpurent_core::model::{Credential, EndReason, Rental, RentalEvent};
use gpurent_core::runtime::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Where the story is told.
pub struct Telling {
    json: bool,
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Telling {
    /// Begins to tell.
    pub fn new(json: bool) -> Self {
        Self { json, begun: Instant::now(), bar: None }
    }

    fn line(&mut self, what: &str, text: &str, value: &Value) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let elapsed = self.begun.elapsed();
        let mut out = std::io::stdout().lock();
        let told = if self.json {
            writeln!(out, "{}", json!({"elapsed_s": elapsed.as_secs_f64(), "what": what, "data": value}))
        } else {
            writeln!(out, "{:>8.3} s  {what:<10} {text}", elapsed.as_secs_f64())
        };
        // Nobody listens any more (a closed pipe): the rental still has to be taken down.
        told.ok();
    }

    /// Something beside the rental itself.
    pub fn note(&mut self, text: &str) {
        self.line("note", text, &json!({"text": text}));
    }

    /// The program cannot go on.
    pub fn error(&mut self, error: &(dyn Error + 'static)) {
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
        self.line("error", &text, &json!({"text": text}));
    }

    /// A pull goes on.
    pub fn pulling(&mut self, progress: &Progress) {
        if self.json {
            self.line("pulling", "", &json!(progress));
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("            pulling    [{bar:30}] {bytes}/{total_bytes} {msg}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.current_bytes);
        bar.set_message(progress.status.clone());
    }

    /// Something happened to the rental.
    pub fn event(&mut self, event: &RentalEvent, rental: &Rental, access: Option<&Access>) {
        let text = match event {
            RentalEvent::Claimed(claim) => {
                let gpus: Vec<_> = claim.gpus.iter().map(|gpu| format!("{} ({})", gpu.model, gpu.uuid)).collect();
                let ports: Vec<_> = claim.ports.iter().map(ToString::to_string).collect();
                format!("{} with ports {} for {}", gpus.join(", "), ports.join(", "), claim.spec.image)
            }
            RentalEvent::Created { container, gpus_attached: true, .. } => format!("container {container}"),
            RentalEvent::Created { container, .. } => {
                format!("container {container}; the engine has no GPU driver, so simulated GPUs are left off")
            }
            RentalEvent::Started { started_at, .. } => format!("at {started_at}, by the engine's clock"),
            RentalEvent::Verified { .. } => ready(rental, access),
            RentalEvent::Warned => "the end is near".to_owned(),
            RentalEvent::Notified => "the program was told to finish".to_owned(),
            RentalEvent::EndBegan { reason } => ending(reason),
            RentalEvent::Stopped { exit: Some(exit), .. } => format!("at {}, by the engine's clock", exit.finished_at),
            RentalEvent::Stopped { exit: None, .. } => "there was nothing to stop".to_owned(),
            RentalEvent::Ended => "container gone, GPU and ports free".to_owned(),
            other => format!("{other:?}"),
        };
        let data = match event {
            RentalEvent::Verified { .. } => json!({"access": access.map(|access| json!({
                "host": access.host, "port": access.port, "user": access.user, "password": password(access)
            })), "expires_at": rental.expires_at()}),
            other => json!(other),
        };
        self.line(event.name(), &text, &data);
    }

    /// The bill, and why it is so much.
    pub fn bill(&mut self, rental: &Rental, now: Timestamp) {
        let bill = rental.bill(now);
        let currency = bill.currency.as_ref().map(ToString::to_string).unwrap_or_default();
        let used = f64::from(u32::try_from(bill.used_micros / 1000).unwrap_or(u32::MAX)) / 1000.0;
        let text =
            format!("{} {currency} for {used:.3} s in {} line(s); the least is a minute", bill.total, bill.lines.len());
        self.line("bill", &text, &json!(bill));
    }
}

fn password(access: &Access) -> Option<&str> {
    match &access.credential {
        Some(Credential::Password(password)) => Some(password.expose()),
        _ => None,
    }
}

fn ready(rental: &Rental, access: Option<&Access>) -> String {
    let Some(access) = access else { return "ready".to_owned() };
    let password = password(access).unwrap_or("(key)");
    let until = rental.expires_at().map(|at| format!(", until {at}")).unwrap_or_default();
    format!("{} with password {password}{until}", access.ssh_command())
}

fn ending(reason: &EndReason) -> String {
    let mut text = reason.describe();
    if let EndReason::Failed(failure) = reason {
        for line in &failure.log_tail {
            text.push_str("\n                        | ");
            text.push_str(line);
        }
    }
    text
}
