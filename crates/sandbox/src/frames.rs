//! What parent and child say to each other over their one socket: a length of four bytes, then
//! JSON. The parent reads frames as hostile input: length, shape and order are checked.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::limits::Guards;
use crate::{Job, Json, Level, Limits, Request, Response, WebResponse};

/// The first frame holds numbers only.
pub(crate) const FIRST_BYTES_MAX: usize = 4_096;
/// A request or an answer has so many headers at most: servers refuse more.
pub(crate) const HEADERS_MAX: usize = 100;

/// From the parent.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToChild {
    /// What to give up before anything else is read.
    Limits(Limits),
    /// What to run.
    Start(Box<Job>),
    /// What to compile, instead of running anything.
    Compile { entry: String, files: BTreeMap<String, String> },
    /// The answer to a request, or why there is none.
    Answer { id: u32, answer: Result<Response, String> },
}

/// From the child.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToParent {
    /// The rights are gone.
    Ready(Guards),
    /// A line for the log.
    Log { at_ms: u64, level: Level, text: String },
    /// A request.
    Fetch { id: u32, request: Request },
    /// Nobody waits for its answer any more, which may be on its way.
    GiveUp { id: u32 },
    /// A web task's answer begins, whose body comes in pieces.
    Head(WebResponse),
    /// The next piece.
    Piece(#[serde(with = "base64_bytes")] Vec<u8>),
    /// What came of the compiling, to be read by who has asked for it: it has many parts.
    Compiled(Box<RawValue>),
    /// The end.
    End(End),
}

/// How the script ended, as the child sees it.
#[derive(Serialize, Deserialize)]
pub(crate) enum End {
    Done(Json),
    Threw { message: String, stack: String },
    OutOfMemory,
    TooLarge,
}

/// A frame's bytes.
pub(crate) fn encode<T: Serialize>(frame: &T) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, frame).map_err(|error| error.to_string())?;
    let length = u32::try_from(bytes.len() - 4).map_err(|_| "the frame is too long")?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// The length that four bytes announce, if it is allowed.
pub(crate) fn length(head: [u8; 4], bytes_max: usize) -> Result<usize, String> {
    let length = u32::from_le_bytes(head) as usize;
    if length > bytes_max {
        return Err(format!("a frame of {length} bytes; {bytes_max} are allowed"));
    }
    Ok(length)
}

/// The frame in these bytes.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("an unreadable frame: {error}"))
}

/// Bytes as base64 within JSON.
pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(value)?;
        BASE64_STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

/// Headers as they come, but one more than there may be at the most: what is left out was too much
/// in any case, and would take many times its length.
pub(crate) fn headers<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<(String, String)>, D::Error> {
    struct Few;

    impl<'de> Visitor<'de> for Few {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("headers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut few = Vec::new();
            while few.len() <= HEADERS_MAX {
                let Some(header) = all.next_element()? else { return Ok(few) };
                few.push(header);
            }
            while all.next_element::<IgnoredAny>()?.is_some() {}
            Ok(few)
        }
    }

    from.deserialize_seq(Few)
}

/// Headers, if there are not too many.
pub(crate) fn few_headers<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<(String, String)>, D::Error> {
    let few = headers(from)?;
    if few.len() > HEADERS_MAX {
        return Err(D::Error::custom(format!("over {HEADERS_MAX} headers")));
    }
    Ok(few)
}
