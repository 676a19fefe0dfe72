//! Requests and responses as frames: header and body in Kafka's wire protocol, without the length prefix.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use super::fetch::{FetchAnswer, FetchQuestion};

/// A frame that is not what the protocol says it must be.
#[derive(Debug, thiserror::Error)]
#[error("malformed {what}: {reason}")]
pub struct WireError {
    pub what: &'static str,
    pub reason: String,
}

// `kafka-protocol` reports errors with `anyhow`.
fn malformed(what: &'static str) -> impl Fn(anyhow::Error) -> WireError {
    move |e| WireError { what, reason: e.to_string() }
}

/// The header of a request frame, decoded; `body` is what follows it.
#[derive(Clone, Debug)]
pub struct RequestFrame {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
    pub body: Bytes,
}

impl RequestFrame {
    /// Reads the header of a request. An API key that nobody knows is an error; the connection is then closed.
    pub fn decode(mut frame: Bytes) -> Result<RequestFrame, WireError> {
        let what = "request header";
        if frame.len() < 8 {
            return Err(WireError { what, reason: format!("{} bytes", frame.len()) });
        }
        let api_key = i16::from_be_bytes([frame[0], frame[1]]);
        let api_version = i16::from_be_bytes([frame[2], frame[3]]);
        let key =
            ApiKey::try_from(api_key).map_err(|()| WireError { what, reason: format!("unknown API key {api_key}") })?;
        let version = key.request_header_version(api_version);
        if let Some((client_id, end)) = plain_header(&frame, version) {
            let correlation_id = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
            frame.advance(end);
            return Ok(RequestFrame { api_key, api_version, correlation_id, client_id, body: frame });
        }
        let header = RequestHeader::decode(&mut frame, version).map_err(malformed(what))?;
        Ok(RequestFrame {
            api_key,
            api_version,
            correlation_id: header.correlation_id,
            client_id: header.client_id,
            body: frame,
        })
    }

    /// Decodes the body as the request type that belongs to `api_key`.
    pub fn body<R: Request>(&self) -> Result<R, WireError> {
        debug_assert_eq!(R::KEY, self.api_key);
        R::decode(&mut self.body.clone(), self.api_version).map_err(malformed("request body"))
    }
}

/// The client id in a request header without tagged fields, and where that ends. None of those that we know has any; one
/// that has is left to the library.
fn plain_header(frame: &Bytes, version: i16) -> Option<(Option<StrBytes>, usize)> {
    let at = 10;
    let length = i16::from_be_bytes([*frame.get(8)?, *frame.get(9)?]);
    let (client_id, end) = match usize::try_from(length) {
        Ok(length) if frame.len() >= at + length => {
            (Some(StrBytes::try_from(frame.slice(at..at + length)).ok()?), at + length)
        }
        Err(_) if length == -1 => (None, at),
        Ok(_) | Err(_) => return None,
    };
    match version {
        1 => Some((client_id, end)),
        2 if frame.get(end) == Some(&0) => Some((client_id, end + 1)),
        _ => None,
    }
}

/// Encodes a request with its header. Into a `Vec`: unlike `BytesMut`'s, its writes are inlined, a third of the cost.
pub fn encode_request<R: Request>(body: &R, api_version: i16, correlation_id: i32, client_id: &StrBytes) -> Bytes {
    let header_version = R::header_version(api_version);
    encode_request_with(R::KEY, api_version, header_version, correlation_id, client_id, |buffer| {
        body.encode(buffer, api_version).expect("our own requests fit the version they are built for");
    })
}

/// Encodes a follower's Fetch request, in version 16.
pub fn encode_fetch(question: &FetchQuestion, correlation_id: i32, client_id: &StrBytes) -> Bytes {
    encode_request_with(ApiKey::Fetch as i16, 16, 2, correlation_id, client_id, |buffer| question.encode_v16(buffer))
}

fn encode_request_with(
    api_key: i16,
    api_version: i16,
    header_version: i16,
    correlation_id: i32,
    client_id: &StrBytes,
    encode_body: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let mut buffer = Vec::with_capacity(256);
    let client_id_bytes = i16::try_from(client_id.len()).expect("a client id is a few words");
    buffer.extend_from_slice(&api_key.to_be_bytes());
    buffer.extend_from_slice(&api_version.to_be_bytes());
    buffer.extend_from_slice(&correlation_id.to_be_bytes());
    buffer.extend_from_slice(&client_id_bytes.to_be_bytes());
    buffer.extend_from_slice(client_id.as_bytes());
    if header_version >= 2 {
        buffer.push(0);
    }
    encode_body(&mut buffer);
    buffer.into()
}

/// Encodes a response with its header. The ApiVersions response always has header v0 (KIP-511).
pub fn encode_response<R: Request>(body: &R::Response, api_version: i16, correlation_id: i32) -> Bytes {
    let mut buffer = Vec::with_capacity(256);
    buffer.extend_from_slice(&correlation_id.to_be_bytes());
    if <R::Response as HeaderVersion>::header_version(api_version) >= 1 {
        buffer.push(0);
    }
    body.encode(&mut buffer, api_version).expect("our own responses fit the version they are built for");
    buffer.into()
}

/// Correlation id of a response frame: its first four bytes in every header version.
pub fn response_correlation_id(frame: &Bytes) -> Result<i32, WireError> {
    match frame.get(..4) {
        Some(b) => Ok(i32::from_be_bytes([b[0], b[1], b[2], b[3]])),
        None => Err(WireError { what: "response header", reason: format!("{} bytes", frame.len()) }),
    }
}

/// Decodes a response frame, header included.
pub fn decode_response<R: Request>(frame: &Bytes, api_version: i16) -> Result<R::Response, WireError> {
    let mut frame = frame.clone();
    ResponseHeader::decode(&mut frame, <R::Response as HeaderVersion>::header_version(api_version))
        .map_err(malformed("response header"))?;
    R::Response::decode(&mut frame, api_version).map_err(malformed("response body"))
}

/// As [`decode_response`], by our own code.
pub fn decode_fetch_answer(frame: &Bytes, api_version: i16) -> Result<FetchAnswer, WireError> {
    FetchAnswer::decode(frame, api_version).map_err(|e| WireError { what: "response to Fetch", reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{ApiVersionsRequest, MetadataRequest};

    use super::*;

    #[test]
    fn headers_are_those_of_the_library() {
        for (version, client_id) in [(1, ""), (8, "a"), (9, "broker-1"), (12, "é")] {
            let body = MetadataRequest::default();
            let frame = encode_request(&body, version, 7, &StrBytes::from_static_str(client_id));
            let header_version = MetadataRequest::header_version(version);
            let header = RequestHeader::default()
                .with_request_api_key(3)
                .with_request_api_version(version)
                .with_correlation_id(7)
                .with_client_id(Some(StrBytes::from_static_str(client_id)));
            let mut expected = Vec::new();
            header.encode(&mut expected, header_version).unwrap();
            assert_eq!(frame[..expected.len()], expected);
            let read = RequestFrame::decode(frame.clone()).unwrap();
            assert_eq!((read.api_key, read.api_version, read.correlation_id), (3, version, 7));
            assert_eq!(read.client_id.as_ref().map(|id| id.as_str()), Some(client_id));
            assert_eq!(read.body, frame.slice(expected.len()..));
        }
    }

    #[test]
    fn a_header_without_a_client_id_or_with_tagged_fields_is_read_too() {
        let mut header = RequestHeader::default().with_request_api_key(18).with_request_api_version(3);
        header.unknown_tagged_fields.insert(5, Bytes::from_static(b"new"));
        for client_id in [None, Some(StrBytes::from_static_str("c"))] {
            header.client_id = client_id.clone();
            let mut frame = Vec::new();
            header.encode(&mut frame, 2).unwrap();
            frame.extend_from_slice(b"body");
            let read = RequestFrame::decode(frame.into()).unwrap();
            assert_eq!((read.client_id, &read.body[..]), (client_id, &b"body"[..]));
        }
        let whole = encode_request(&ApiVersionsRequest::default(), 3, 1, &StrBytes::from_static_str("client"));
        assert!((0..16).all(|len| RequestFrame::decode(whole.slice(..len)).is_err()));
    }
}
