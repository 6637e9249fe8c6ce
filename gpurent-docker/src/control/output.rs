//! Output of a renter's program on its way to people: lines without what would steer their terminals.

/// A line of output as a terminal shows it in the end: without what was written over, and without what controls the
/// terminal, but for colours (`ESC [ ... m`, ECMA-48).
pub(crate) fn plain(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let mut rest = line.rsplit('\r').next().unwrap_or(line);
    let mut plain = String::with_capacity(rest.len());
    while let Some(letter) = rest.chars().next() {
        let colour =
            rest.strip_prefix("\u{1b}[").and_then(|inner| inner.find(|c: char| !c.is_ascii_digit() && c != ';'));
        let length = match colour {
            Some(end) if rest[2 + end..].starts_with('m') => end + 3,
            _ => letter.len_utf8(),
        };
        if length > letter.len_utf8() || !letter.is_control() || letter == '\t' {
            plain.push_str(&rest[..length]);
        }
        rest = &rest[length..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_a_terminal_shows_of_it() {
        assert_eq!(plain("10%\r50%\r100%\r"), "100%");
        assert_eq!(plain("\u{1b}[1;31mred\u{1b}[0m\tplain"), "\u{1b}[1;31mred\u{1b}[0m\tplain");
        assert_eq!(plain("\u{1b}[2J\u{1b}[6n\u{1b}]0;title\u{7}\0gone"), "[2J[6n]0;titlegone");
        assert_eq!(plain("\u{1b}[1;3"), "[1;3");
    }
}
