//! stub
use axum::http::{Method, StatusCode};
use reauth_sandbox::{Host, LogLine, Request, Response};

use crate::app::App;
const RESPONSE_BYTES_MAX: usize = 8 << 20;
/// In a rehearsal nothing is asked of the world that could change it (RFC 9110, section 9.2.1).
fn not_sent(url: String) -> Response {
    let status = StatusCode::ACCEPTED;
    Response {
        status: status.as_u16(),
        status_text: status.canonical_reason().unwrap_or_default().to_owned(),
        url,
        headers: Vec::new(),
        body: Vec::new(),
    }
}

/// What a script can reach: our own API, and what the operator allows beside it.
pub(super) struct Reach {
    pub(super) app: App,
    pub(super) task: String,
    pub(super) allow_hosts: Vec<super::egress::AllowedHost>,
    pub(super) rehearsal: Option<crate::simulation::Rehearsed>,
    pub(super) run: Option<std::sync::Arc<super::going::Run>>,
}

impl Host for Reach {
    fn hear(&self, line: &LogLine) {
        if let Some(run) = &self.run {
            run.hear(super::run::log_row(line.clone()));
        }
    }

    async fn fetch(&self, request: Request) -> Result<Response, String> {
        let url = reqwest::Url::parse(&request.url).map_err(|error| error.to_string())?;
        let origin = url.origin().ascii_serialization();
        if origin != self.app.local_url() && !self.app.config.tasks.fetch_allowed.contains(&origin)
        {
            let why =
                "a task reaches this API and what tasks.fetch_allowed of the configuration names";
            return Err(format!("{origin} is not allowed: {why}"));
        }
        let method: Method = request.method.parse().map_err(|_| "no such method".to_owned())?;
        if let Some(rehearsal) = &self.rehearsal
            && origin != self.app.local_url()
            && !method.is_safe()
        {
            rehearsal.note_request(&self.task, format!("{method} {origin}"));
            return Ok(not_sent(request.url));
        }
        let mut wanted = self.app.client.request(method, url).body(request.body);
        for (name, value) in &request.headers {
            wanted = wanted.header(name, value);
        }
        let mut response = wanted.send().await.map_err(|error| error.to_string())?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
            if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
                return Err(format!("the answer is longer than {RESPONSE_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        let text = |value: &reqwest::header::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        Ok(Response {
            status: response.status().as_u16(),
            status_text: response.status().canonical_reason().unwrap_or_default().to_owned(),
            url: response.url().to_string(),
            headers: response
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body,
        })
    }
}
