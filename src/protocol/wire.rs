//! Requests and responses as frames: header and body in Kafka's wire protocol, without the length prefix.

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

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

/// Encodes a request with its header. Into a `Vec`: unlike `BytesMut`'s, its writes are inlined, a third of the cost.
pub fn encode_request<R: Request>(body: &R, api_version: i16, correlation_id: i32, client_id: &StrBytes) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(api_version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(client_id.clone()));
    let mut buffer = Vec::with_capacity(256);
    header.encode(&mut buffer, R::header_version(api_version)).expect("a request header always encodes");
    body.encode(&mut buffer, api_version).expect("our own requests fit the version they are built for");
    buffer.into()
}

/// Encodes a response with its header. The ApiVersions response always has header v0 (KIP-511).
pub fn encode_response<R: Request>(body: &R::Response, api_version: i16, correlation_id: i32) -> Bytes {
    let mut buffer = Vec::with_capacity(256);
    ResponseHeader::default()
        .with_correlation_id(correlation_id)
        .encode(&mut buffer, <R::Response as HeaderVersion>::header_version(api_version))
        .expect("a response header always encodes");
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
