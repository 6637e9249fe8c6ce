//! How things are shown: tables for people, JSON for scripts.

#![allow(clippy::print_stdout, reason = "a command's answer goes to stdout")]

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Prints JSON as it is.
pub fn json(value: &Value) {
    println!("{value:#}");
}

/// Prints a line. What others wrote (names, output of programs) may hold what a terminal would obey.
pub fn line(text: &str) {
    println!("{}", escape_control(text));
}

/// Prints a table without borders, so that it can be cut and sorted.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| escape_control(cell)));
    }
    for line in table.lines() {
        println!("{}", line.trim_end());
    }
}

/// Text without control characters.
pub fn escape_control(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A field as text; empty where it is null.
pub fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// How long until a time, such as `1h 59m`.
pub fn time_left(until: &Value) -> String {
    let Some(until) = until.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
        return String::new();
    };
    duration(until.duration_since(jiff::Timestamp::now()).as_secs())
}

/// A number of seconds, such as `1h 59m`.
pub fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (hours, minutes, _) => format!("{hours}h {minutes}m"),
    }
}
