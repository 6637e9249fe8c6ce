//! Frames that host and container send each other over a stream socket: a kind and a payload.
//!
//! The container connects, since the folder that both see is read-only to it. Its first frame says what the connection
//! is for: [`Hello::Control`], or [`Hello::Session`] for one program that the host asked for. On a control connection
//! the host sends one [`Request`] at a time and the container one [`Reply`]. On a session's connection frames of
//! [`Stream`] go both ways. Whatever comes from the container is its renter's word.

use std::io::{self, Read, Write};

/// The largest payload of a frame, in bytes.
pub const MOST_BYTES: usize = 256 * 1024;

/// Named texts, in order; a name may come several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Adds a text.
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// The first text of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All texts of this name.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let found: Vec<_> = self.0.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect();
        found.into_iter()
    }

    /// A line with name and length, then the text and a line feed, for each.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let texts = self.0.iter().map(|(name, value)| format!("{name} {}\n{value}\n", value.len()));
        texts.collect::<String>().into_bytes()
    }

    /// The reverse; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let (name, length) = str::from_utf8(&rest[..end]).ok()?.split_once(' ')?;
            let length: usize = length.parse().ok()?;
            let text = rest.get(end + 1..)?;
            if *text.get(length)? != b'\n' {
                return None;
            }
            fields.push((name.to_owned(), str::from_utf8(&text[..length]).ok()?.to_owned()));
            rest = &text[length + 1..];
        }
        Some(Self(fields))
    }
}

/// A kind and a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The payload's kind.
    pub kind: u8,
    /// At most [`MOST_BYTES`].
    pub payload: Vec<u8>,
}

impl Frame {
    /// The frame as bytes: a length of four bytes (big-endian), the kind, the payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        [length.as_slice(), &[self.kind], &self.payload].concat()
    }

    /// Takes the first frame off a buffer; `None` while it is not whole.
    ///
    /// # Errors
    /// Where its length is more than [`MOST_BYTES`]: nothing that follows can be understood.
    pub fn take(buffer: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let Some((head, _)) = buffer.split_first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = head[4];
        if length > MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
        }
        if buffer.len() < 5 + length {
            return Ok(None);
        }
        let payload = buffer[5..5 + length].to_vec();
        buffer.drain(..5 + length);
        Ok(Some(Self { kind, payload }))
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// Where the stream ends before the frame does, or [`Frame::take`] refuses it.
    pub fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut buffer = vec![0; 5];
        stream.read_exact(&mut buffer)?;
        let length = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
        if length <= MOST_BYTES {
            buffer.resize(5 + length, 0);
            stream.read_exact(&mut buffer[5..])?;
        }
        Self::take(&mut buffer)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Writes the frame.
    ///
    /// # Errors
    /// As the stream.
    pub fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        stream.write_all(&self.encode())
    }

    fn new(kind: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, payload: payload.into() }
    }

    fn text(&self) -> Option<String> {
        String::from_utf8(self.payload.clone()).ok()
    }
}

/// The purpose of a connection: the container's first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// For requests.
    Control,
    /// For the program that was asked for under this name.
    Session(String),
}

impl Hello {
    /// As a frame.
    #[must_use]
    pub fn frame(&self) -> Frame {
        match self {
            Self::Control => Frame::new(200, Vec::new()),
            Self::Session(token) => Frame::new(201, token.as_bytes()),
        }
    }

    /// The reverse; `None` for anything else.
    #[must_use]
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        match frame.kind {
            200 => Some(Self::Control),
            201 => Some(Self::Session(frame.text()?)),
            _ => None,
        }
    }
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// How many characters a line has.
    pub columns: u16,
    /// How many lines there are.
    pub rows: u16,
}

impl Size {
    /// "80x24".
    #[must_use]
    pub fn to_text(self) -> String {
        format!("{}x{}", self.columns, self.rows)
    }

    /// The reverse; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (columns, rows) = text.split_once('x')?;
        Some(Self { columns: columns.parse().ok()?, rows: rows.parse().ok()? })
    }
}

/// A request of the host to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read the file with whom to let in again.
    Reload,
    /// Tell the renter something: in a file, and on the terminals that are open.
    Message(String),
    /// Tell everything but the renter's sessions to end; they and the container stay.
    Notify,
    /// Tell everything to end.
    Terminate,
    /// Run a program, or the login shell, as the renter; it calls back by this name.
    Session {
        /// The name.
        token: String,
        /// The terminal that it gets.
        terminal: Option<Size>,
        /// The program and its arguments; empty for the login shell.
        command: Vec<String>,
    },
    /// The last logins: from where, and which failed.
    AccessLog,
}

impl Request {
    /// As a frame.
    #[must_use]
    pub fn frame(&self) -> Frame {
        match self {
            Self::Reload => Frame::new(1, Vec::new()),
            Self::Message(text) => Frame::new(2, text.as_bytes()),
            Self::Notify => Frame::new(3, Vec::new()),
            Self::Terminate => Frame::new(4, Vec::new()),
            Self::Session { token, terminal, command } => {
                let mut fields = Fields::default();
                fields.push("token", token);
                if let Some(size) = terminal {
                    fields.push("terminal", &size.to_text());
                }
                command.iter().for_each(|word| fields.push("word", word));
                Frame::new(5, fields.encode())
            }
            Self::AccessLog => Frame::new(6, Vec::new()),
        }
    }

    /// The reverse; `None` for anything else.
    #[must_use]
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        Some(match frame.kind {
            1 => Self::Reload,
            2 => Self::Message(frame.text()?),
            3 => Self::Notify,
            4 => Self::Terminate,
            5 => {
                let fields = Fields::decode(&frame.payload)?;
                Self::Session {
                    token: fields.get("token")?.to_owned(),
                    terminal: fields.get("terminal").and_then(Size::parse),
                    command: fields.all("word").map(str::to_owned).collect(),
                }
            }
            6 => Self::AccessLog,
            _ => return None,
        })
    }
}

/// The container's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The request was carried out.
    Done,
    /// The request was not carried out, and why.
    Failed(String),
    /// The text that was asked for.
    Text(String),
}

impl Reply {
    /// As a frame.
    #[must_use]
    pub fn frame(&self) -> Frame {
        match self {
            Self::Done => Frame::new(100, Vec::new()),
            Self::Failed(why) => Frame::new(101, why.as_bytes()),
            Self::Text(text) => Frame::new(102, text.as_bytes()),
        }
    }

    /// The reverse; `None` for anything else. Texts that are no UTF-8 are made some.
    #[must_use]
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        let text = || String::from_utf8_lossy(&frame.payload).into_owned();
        match frame.kind {
            100 => Some(Self::Done),
            101 => Some(Self::Failed(one_line(&text()))),
            102 => Some(Self::Text(text())),
            _ => None,
        }
    }
}

/// A frame of a session's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    /// From the host: what is typed.
    Input(Vec<u8>),
    /// From the host: the terminal has another size now.
    Resize(Size),
    /// From the container: what is shown.
    Output(Vec<u8>),
    /// From the container, last: the program's exit code, 128 and the signal's number where one ended it.
    Exit(i32),
}

impl Stream {
    /// As a frame.
    #[must_use]
    pub fn frame(&self) -> Frame {
        match self {
            Self::Input(bytes) => Frame::new(10, bytes.as_slice()),
            Self::Resize(size) => Frame::new(11, size.to_text()),
            Self::Output(bytes) => Frame::new(12, bytes.as_slice()),
            Self::Exit(code) => Frame::new(13, code.to_be_bytes()),
        }
    }

    /// The reverse; `None` for anything else.
    #[must_use]
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        Some(match frame.kind {
            10 => Self::Input(frame.payload.clone()),
            11 => Self::Resize(Size::parse(&frame.text()?)?),
            12 => Self::Output(frame.payload.clone()),
            13 => Self::Exit(i32::from_be_bytes(frame.payload.as_slice().try_into().ok()?)),
            _ => return None,
        })
    }
}

/// The line by which the host asks a container whether its renter would get in.
#[must_use]
pub fn question(token: &str) -> String {
    format!("{QUESTION}{token}\n")
}

/// How a question begins; no SSH client begins so (RFC 4253, section 4.2).
pub const QUESTION: &str = "GPURENT-CHECK ";

/// Text without what a terminal or a log would obey.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Whether a renter would get in now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The renter would get in, and the container sees these device nodes of GPUs.
    Ready(Vec<u32>),
    /// The renter would not get in because of the image, and why.
    Image(String),
    /// The renter would not get in because of the host, and why.
    Host(String),
}

impl Verdict {
    /// The line that answers a question.
    #[must_use]
    pub fn to_line(&self, token: &str) -> String {
        match self {
            Self::Ready(devices) => {
                let devices: Vec<_> = devices.iter().map(ToString::to_string).collect();
                format!("{token} ready {}\n", devices.join(","))
            }
            Self::Image(why) => format!("{token} image {}\n", one_line(why)),
            Self::Host(why) => format!("{token} host {}\n", one_line(why)),
        }
    }

    /// The reverse; `None` where the token is another, or the line is none of these.
    #[must_use]
    pub fn from_line(line: &str, token: &str) -> Option<Self> {
        let rest = line.strip_suffix('\n')?.strip_prefix(token)?.strip_prefix(' ')?;
        let (kind, text) = rest.split_once(' ')?;
        Some(match kind {
            "ready" => {
                let numbers = text.split(',').filter(|number| !number.is_empty());
                Self::Ready(numbers.map(str::parse).collect::<Result<_, _>>().ok()?)
            }
            // A renter can have written the line: what it holds is shown to others.
            "image" => Self::Image(one_line(text)),
            "host" => Self::Host(one_line(text)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_survive(pairs in prop::collection::vec(("[a-z-]{1,8}", any::<String>()), 0..8)) {
            let mut fields = Fields::default();
            pairs.iter().for_each(|(name, value)| fields.push(name, value));
            prop_assert_eq!(Fields::decode(&fields.encode()), Some(fields));
        }

        #[test]
        fn frames_survive_in_pieces(kind: u8, payload in prop::collection::vec(any::<u8>(), 0..500), cut in 0usize..500) {
            let frame = Frame { kind, payload };
            let bytes = frame.encode();
            let cut = cut.min(bytes.len() - 1);
            let mut buffer = bytes[..cut].to_vec();
            prop_assert_eq!(Frame::take(&mut buffer).unwrap(), None);
            buffer.extend_from_slice(&bytes[cut..]);
            prop_assert_eq!(Frame::take(&mut buffer).unwrap(), Some(frame.clone()));
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(Frame::read(&mut bytes.as_slice()).unwrap(), frame);
        }

        #[test]
        fn nothing_that_comes_in_breaks_a_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(Fields::decode(&bytes));
            drop(Frame::take(&mut bytes.clone()));
            let frame = Frame { kind: bytes.first().copied().unwrap_or(0), payload: bytes.clone() };
            drop((Request::from_frame(&frame), Reply::from_frame(&frame), Stream::from_frame(&frame), Hello::from_frame(&frame)));
            drop(Verdict::from_line(&String::from_utf8_lossy(&bytes), "t"));
        }
    }

    #[test]
    fn requests_replies_and_streams_survive() {
        let session = Request::Session {
            token: "t".to_owned(),
            terminal: Some(Size { columns: 80, rows: 24 }),
            command: vec!["sh".to_owned(), "-c".to_owned(), "a\nb".to_owned()],
        };
        for request in [Request::Reload, Request::Message("x".to_owned()), Request::Notify, Request::AccessLog, session]
        {
            assert_eq!(Request::from_frame(&request.frame()), Some(request));
        }
        for reply in [Reply::Done, Reply::Failed("no".to_owned()), Reply::Text("yes".to_owned())] {
            assert_eq!(Reply::from_frame(&reply.frame()), Some(reply));
        }
        for stream in [Stream::Input(vec![1]), Stream::Resize(Size { columns: 1, rows: 2 }), Stream::Exit(-1)] {
            assert_eq!(Stream::from_frame(&stream.frame()), Some(stream));
        }
    }

    #[test]
    fn a_verdict_is_believed_with_its_token_alone() {
        let ready = Verdict::Ready(vec![0, 12]);
        assert_eq!(Verdict::from_line(&ready.to_line("secret"), "secret"), Some(ready.clone()));
        assert_eq!(Verdict::from_line(&ready.to_line("guess"), "secret"), None);
        let none = Verdict::Ready(Vec::new());
        assert_eq!(Verdict::from_line(&none.to_line("s"), "s"), Some(none));
        let why = Verdict::Image("two\nlines".to_owned());
        assert_eq!(Verdict::from_line(&why.to_line("s"), "s"), Some(Verdict::Image("two lines".to_owned())));
        let forged = "s image \u{1b}[31mred\n";
        assert_eq!(Verdict::from_line(forged, "s"), Some(Verdict::Image(" [31mred".to_owned())));
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_stream() {
        assert!(Frame::take(&mut vec![0xff, 0, 0, 0, 1]).is_err());
        assert!(Frame::read(&mut [0xff, 0, 0, 0, 1].as_slice()).is_err());
    }
}
