//! The greeting that a renter reads at login: the rental's name, until when it is paid for, and what outlives it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::spec::Greeting;

/// The text, with line feeds.
pub(crate) fn text(greeting: &Greeting, started: SystemTime) -> String {
    let mut text = format!("This is {}, rented through gpurent.\n", greeting.name);
    match greeting.seconds {
        // It may have been extended since.
        Some(seconds) => {
            let end = started + Duration::from_secs(seconds);
            text.push_str(&format!("It is paid for until {} at least; ", date(end)));
        }
        None => text.push_str("It runs until somebody ends it; "),
    }
    match &greeting.survives {
        Some(folder) => text.push_str(&format!("{folder} outlives it, everything else is then gone.\n")),
        None => text.push_str("everything in it is then gone.\n"),
    }
    text
}

/// "2026-11-26 22:10 UTC".
fn date(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

/// The date of a day since 1970, after <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(1_795_730_999), "2026-11-26 22:09 UTC");
    }

    #[test]
    fn a_greeting_promises_no_more_than_what_is_so() {
        let greeting = Greeting { name: "mine".to_owned(), seconds: Some(60), survives: Some("/workspace".to_owned()) };
        let text = text(&greeting, UNIX_EPOCH);
        assert!(text.contains("mine") && text.contains("1970-01-01 00:01 UTC at least") && text.contains("/workspace"));
    }
}
