//! The few things that JavaScript cannot do by itself: words to the parent, measured time, bytes,
//! randomness, URLs, cryptography. It knows no script and no job: the globals that scripts see are
//! written upon this in `prelude`, and what a request may reach is the parent's to say.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, prelude::BASE64_STANDARD};
use ring::{digest, hmac};
use rquickjs::{Ctx, Error, Exception, Function, Object, TypedArray};

use crate::engine::LATER;
use crate::frames::ToParent;
use crate::{Level, Request};

/// How a frame gets to the parent.
pub(crate) type Tell = Rc<dyn Fn(&ToParent) -> Result<(), String>>;

/// The object that the prelude gets as `native`.
pub(crate) fn natives<'js>(ctx: &Ctx<'js>, tell: Tell) -> Result<Object<'js>, Error> {
    let native = Object::new(ctx.clone())?;
    add_time_and_parent(ctx, &native, tell)?;
    let set = |name: &str, function: Function<'js>| native.set(name, function);
    let encode = |ctx: Ctx<'js>, text: String| TypedArray::<u8>::new(ctx, text.into_bytes());
    set("encode", Function::new(ctx.clone(), encode)?)?;
    set("decode", Function::new(ctx.clone(), decode)?)?;
    set("openEnd", Function::new(ctx.clone(), open_end)?)?;
    let to_base64 = |binary: String| BASE64_STANDARD.encode(of_binary(&binary));
    set("toBase64", Function::new(ctx.clone(), to_base64)?)?;
    set("fromBase64", Function::new(ctx.clone(), from_base64)?)?;
    set("later", Function::new(ctx.clone(), later)?)?;
    set("random", Function::new(ctx.clone(), random)?)?;
    set("url", Function::new(ctx.clone(), url)?)?;
    set("urlWith", Function::new(ctx.clone(), url_with)?)?;
    set("digest", Function::new(ctx.clone(), digest_of)?)?;
    set("hmac", Function::new(ctx.clone(), hmac_of)?)?;
    set("hmacVerify", Function::new(ctx.clone(), hmac_is_right)?)?;
    Ok(native)
}

/// `begin`, `now`, `log`, `fetch`, `giveUp`, `head` and `piece`. Time counts from `begin`: a child
/// may wait long for its job.
fn add_time_and_parent<'js>(ctx: &Ctx<'js>, native: &Object<'js>, tell: Tell) -> Result<(), Error> {
    let set = |name: &str, function: Function<'js>| native.set(name, function);
    let began = Rc::new(Cell::new(Instant::now())); // clock: measures
    let clock = Rc::clone(&began);
    let begin = move || clock.set(Instant::now()); // clock: measures
    set("begin", Function::new(ctx.clone(), begin)?)?;
    let clock = Rc::clone(&began);
    let now = move || clock.get().elapsed().as_secs_f64() * 1e3;
    set("now", Function::new(ctx.clone(), now)?)?;
    let parent = Rc::clone(&tell);
    let log = move |ctx: Ctx<'_>, level: String, text: String| {
        let level = match level.as_str() {
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warn" => Level::Warn,
            "error" => Level::Error,
            _ => Level::Log,
        };
        let at_ms = u64::try_from(began.get().elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = parent(&ToParent::Log { at_ms, level, text });
        told.map_err(|why| Exception::throw_internal(&ctx, &why))
    };
    set("log", Function::new(ctx.clone(), log)?)?;
    let parent = Rc::clone(&tell);
    let fetch = move |ctx: Ctx<'_>, id: u32, json: String| {
        let request: Result<Request, _> = serde_json::from_str(&json);
        let request = request.map_err(|e| Exception::throw_type(&ctx, &e.to_string()))?;
        let told = parent(&ToParent::Fetch { id, request });
        told.map_err(|why| Exception::throw_internal(&ctx, &why))
    };
    set("fetch", Function::new(ctx.clone(), fetch)?)?;
    let parent = Rc::clone(&tell);
    let give_up = move |ctx: Ctx<'_>, id: u32| {
        let told = parent(&ToParent::GiveUp { id });
        told.map_err(|why| Exception::throw_internal(&ctx, &why))
    };
    set("giveUp", Function::new(ctx.clone(), give_up)?)?;
    let parent = Rc::clone(&tell);
    let head = move |ctx: Ctx<'_>, json: String| {
        let head = serde_json::from_str(&json);
        let head = head.map_err(|e| Exception::throw_type(&ctx, &e.to_string()))?;
        let told = parent(&ToParent::Head(head));
        told.map_err(|why| Exception::throw_internal(&ctx, &why))
    };
    set("head", Function::new(ctx.clone(), head)?)?;
    let piece = move |ctx: Ctx<'_>, binary: String| {
        let told = tell(&ToParent::Piece(of_binary(&binary)));
        told.map_err(|why| Exception::throw_internal(&ctx, &why))
    };
    set("piece", Function::new(ctx.clone(), piece)?)
}

/// Bytes come as a text of one character each: reading a script's buffer in place is not safe.
fn of_binary(binary: &str) -> Vec<u8> {
    binary.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

fn decode(ctx: Ctx<'_>, binary: String, is_fatal: bool) -> Result<String, Error> {
    let bytes = of_binary(&binary);
    match std::str::from_utf8(&bytes) {
        Err(_) if is_fatal => Err(Exception::throw_type(&ctx, "the bytes are no UTF-8")),
        _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// How many bytes at the end are the beginning of a character that more bytes may complete.
fn open_end(binary: String) -> usize {
    let bytes = of_binary(&binary);
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let is_open = std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
    if is_open { last.len() } else { 0 }
}

/// A part of the prelude that was not read before: a function of what it needs.
fn later(ctx: Ctx<'_>, wanted: String) -> Result<Function<'_>, Error> {
    let part = LATER.iter().find(|(name, _)| *name == wanted);
    let (_, text) = part.ok_or_else(|| Exception::throw_internal(&ctx, "no such part"))?;
    ctx.eval(*text)
}

/// As browsers read base64: padding may be absent, and unused bits are ignored.
fn from_base64(ctx: Ctx<'_>, text: String) -> Result<Option<TypedArray<'_, u8>>, Error> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let forgiving = GeneralPurpose::new(&alphabet::STANDARD, config);
    let bytes = forgiving.decode(text).ok();
    bytes.map(|bytes| TypedArray::new(ctx, bytes)).transpose()
}

fn random(ctx: Ctx<'_>, count: usize) -> Result<TypedArray<'_, u8>, Error> {
    let mut bytes = vec![0; count.min(65_536)];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(more) => filled += more,
            Err(error) => return Err(Exception::throw_internal(&ctx, &error.to_string())),
        }
    }
    TypedArray::new(ctx, bytes)
}

fn digest_of(ctx: Ctx<'_>, name: String, binary: String) -> Result<TypedArray<'_, u8>, Error> {
    let algorithm = match name.as_str() {
        // Scripts verify what others sign, and some still sign with it.
        "SHA-1" => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        "SHA-256" => &digest::SHA256,
        "SHA-384" => &digest::SHA384,
        "SHA-512" => &digest::SHA512,
        _ => return Err(no_such_hash(&ctx, &name)),
    };
    let digest = digest::digest(algorithm, &of_binary(&binary));
    let bytes: &[u8] = digest.as_ref();
    TypedArray::new(ctx, bytes)
}

fn hmac_of(
    ctx: Ctx<'_>,
    name: String,
    key: String,
    binary: String,
) -> Result<TypedArray<'_, u8>, Error> {
    let key = hmac_key(&ctx, &name, &key)?;
    let tag = hmac::sign(&key, &of_binary(&binary));
    let bytes: &[u8] = tag.as_ref();
    TypedArray::new(ctx, bytes)
}

/// In constant time.
fn hmac_is_right(
    ctx: Ctx<'_>,
    name: String,
    key: String,
    binary: String,
    signature: String,
) -> Result<bool, Error> {
    let key = hmac_key(&ctx, &name, &key)?;
    Ok(hmac::verify(&key, &of_binary(&binary), &of_binary(&signature)).is_ok())
}

fn hmac_key(ctx: &Ctx<'_>, name: &str, binary: &str) -> Result<hmac::Key, Error> {
    let algorithm = match name {
        "SHA-1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        "SHA-256" => hmac::HMAC_SHA256,
        "SHA-384" => hmac::HMAC_SHA384,
        "SHA-512" => hmac::HMAC_SHA512,
        _ => return Err(no_such_hash(ctx, name)),
    };
    Ok(hmac::Key::new(algorithm, &of_binary(binary)))
}

fn no_such_hash(ctx: &Ctx<'_>, name: &str) -> Error {
    Exception::throw_type(ctx, &format!("there is no hash {name}"))
}

/// The parts of a URL as JSON; null when it cannot be read.
fn url(text: String, base: Option<String>) -> Option<String> {
    let base = base.map(|base| url::Url::parse(&base)).transpose().ok()?;
    let parsed = url::Url::options().base_url(base.as_ref()).parse(&text).ok()?;
    Some(parts(&parsed))
}

/// The parts after one of them was set; what does not fit leaves the URL as it was.
fn url_with(text: String, part: String, value: String) -> Option<String> {
    let mut parsed = url::Url::parse(&text).ok()?;
    let _ = match part.as_str() {
        "href" => return url(value, None),
        "protocol" => url::quirks::set_protocol(&mut parsed, &value),
        "username" => url::quirks::set_username(&mut parsed, &value),
        "password" => url::quirks::set_password(&mut parsed, &value),
        "host" => url::quirks::set_host(&mut parsed, &value),
        "hostname" => url::quirks::set_hostname(&mut parsed, &value),
        "port" => url::quirks::set_port(&mut parsed, &value),
        "pathname" => {
            url::quirks::set_pathname(&mut parsed, &value);
            Ok(())
        }
        "search" => {
            url::quirks::set_search(&mut parsed, &value);
            Ok(())
        }
        "hash" => {
            url::quirks::set_hash(&mut parsed, &value);
            Ok(())
        }
        _ => Err(()),
    };
    Some(parts(&parsed))
}

fn parts(parsed: &url::Url) -> String {
    use url::quirks as part;
    serde_json::json!({
        "href": parsed.as_str(), "origin": part::origin(parsed),
        "protocol": part::protocol(parsed), "username": part::username(parsed),
        "password": part::password(parsed), "host": part::host(parsed),
        "hostname": part::hostname(parsed), "port": part::port(parsed),
        "pathname": part::pathname(parsed), "search": part::search(parsed),
        "hash": part::hash(parsed),
    })
    .to_string()
}
