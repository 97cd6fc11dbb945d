//! Which places a task may ask, decided from URLs and addresses alone. It asks nobody: names are
//! resolved, and requests sent, in `reach`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use reqwest::Url;

/// The longest name that there is (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;
/// How much of a wrong text is told back.
const SHOWN_CHARS_MAX: usize = 80;

/// The URL, without its fragment, if it has a form in which scripts may ask.
pub(crate) fn in_form(mut url: Url) -> Result<Url, String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{}: is not allowed, only http: and https: are", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or password within a URL is not allowed: send it in a header".into());
    }
    if url.port() == Some(0) {
        return Err("port 0 is not allowed: there is none".into());
    }
    url.set_fragment(None);
    Ok(url)
}

/// The scheme, host and port, as they are compared and told.
pub(crate) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// What a task may ask beside our own API.
pub(crate) struct Rules<'a> {
    /// Origins that the operator lists, for every task. A listed address needs no other leave.
    pub(crate) listed: &'a [String],
    /// What the task itself names.
    pub(crate) allow_hosts: &'a [AllowedHost],
    /// Networks whose addresses may be reached although they are not public.
    pub(crate) networks_allowed: &'a [IpNet],
}

impl Rules<'_> {
    /// Whether this may be asked. A name's addresses are looked at when it is resolved.
    pub(crate) fn check(&self, url: &Url) -> Result<(), String> {
        let origin = origin(url);
        if self.listed.contains(&origin) {
            return Ok(());
        }
        if !self.allow_hosts.iter().any(|host| host.allows(url)) {
            let why = "a task reaches this API, the hosts that it names in allow_hosts and what \
                       tasks.fetch_allowed of the configuration names";
            return Err(format!("{origin} is not allowed: {why}"));
        }
        let Some(address) = literal(url) else { return Ok(()) };
        let Some(kind) = special(address) else { return Ok(()) };
        if is_reachable(address, self.networks_allowed) {
            return Ok(());
        }
        let why = "no network in tasks.networks_allowed of the configuration has it";
        Err(format!("{origin} is not allowed: it is not public ({kind}), and {why}"))
    }
}

/// A host that a task names: scheme, host and port are compared whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AllowedHost {
    scheme: &'static str,
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// This one.
    Whole(String),
    /// Every one below this name, but not the name itself.
    Below(String),
}

impl AllowedHost {
    /// Reads `api.example.com` (https), `api.example.com:8443`, `http://mail.internal:8025` or
    /// `*.example.com`. The error says what to write.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).map_err(|why| {
            let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
            format!(
                "{shown:?} {why}: write a host as in \"api.example.com\", \
                 \"api.example.com:8443\", \"http://mail.internal:8025\" or \"*.example.com\""
            )
        })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        let text = text.to_ascii_lowercase();
        let (scheme, rest) = match text.split_once("://") {
            None => ("https", text.as_str()),
            Some(("https", rest)) => ("https", rest),
            Some(("http", rest)) => ("http", rest),
            Some(_) => return Err("has another scheme than http and https"),
        };
        let below = rest.strip_prefix("*.");
        let rest = below.unwrap_or(rest);
        let is_more = |c: char| c.is_whitespace() || c.is_control() || "/\\?#@%*".contains(c);
        if rest.contains(is_more) {
            return Err("is more than a host and a port");
        }
        let url = Url::parse(&format!("{scheme}://{rest}/")).map_err(|_| "names no host")?;
        let port = url.port_or_known_default().filter(|port| *port > 0).ok_or("has no port")?;
        let name = url.host_str().unwrap_or_default();
        // Written with the root's dot it is the same name; a request must name it without.
        let name = name.strip_suffix('.').unwrap_or(name).to_owned();
        if name.len() > NAME_BYTES_MAX || name.split('.').any(str::is_empty) {
            return Err("names no host");
        }
        if below.is_none() {
            return Ok(Self { scheme, host: Host::Whole(name), port });
        }
        if scheme != "https" || literal(&url).is_some() || !name.contains('.') {
            return Err("may stand only for https hosts below a name of two labels or more");
        }
        Ok(Self { scheme, host: Host::Below(name), port })
    }

    fn allows(&self, url: &Url) -> bool {
        let is_host = |name: &str| match &self.host {
            Host::Whole(whole) => name == whole,
            Host::Below(apex) => name
                .strip_suffix(apex.as_str())
                .and_then(|above| above.strip_suffix('.'))
                .is_some_and(|labels| labels.split('.').all(|label| !label.is_empty())),
        };
        url.scheme() == self.scheme
            && url.port_or_known_default() == Some(self.port)
            && url.host_str().is_some_and(is_host)
    }
}

/// The address, if the URL's host is one: a parsed URL writes each in one way only.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// Whether a task may reach this address.
pub(crate) fn is_reachable(address: IpAddr, networks_allowed: &[IpNet]) -> bool {
    let plain = plain(address);
    let is_allowed = |network: &IpNet| network.contains(&address) || network.contains(&plain);
    special(address).is_none() || networks_allowed.iter().any(is_allowed)
}

/// Why an address is not public; none if it is.
fn special(address: IpAddr) -> Option<&'static str> {
    let address = plain(address);
    let row = NOT_PUBLIC.iter().find(|(network, _)| network.contains(&address));
    let is_unicast = match address {
        IpAddr::V4(_) => true,
        // Only 2000::/3 is given out.
        IpAddr::V6(address) => address.segments()[0] >> 13 == 1,
    };
    row.map(|(_, why)| *why).or((!is_unicast).then_some("RFC 4291: not global unicast"))
}

/// What an address leads to: IPv4 that is written as IPv6, mapped or for a translator, is IPv4.
fn plain(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if TRANSLATED.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        address => address,
    }
}

/// RFC 6052: what NAT64 translates.
const TRANSLATED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// The registries of special-purpose addresses (RFC 6890 and after it), and what else leads inside.
const NOT_PUBLIC: &[(IpNet, &str)] = &[
    (v4([0, 0, 0, 0], 8), "RFC 791: this network"),
    (v4([10, 0, 0, 0], 8), "RFC 1918: private"),
    (v4([100, 64, 0, 0], 10), "RFC 6598: shared by a carrier"),
    (v4([127, 0, 0, 0], 8), "RFC 1122: loopback"),
    (v4([168, 63, 129, 16], 32), "the platform of Azure"),
    (v4([169, 254, 0, 0], 16), "RFC 3927: link-local, a cloud's metadata"),
    (v4([172, 16, 0, 0], 12), "RFC 1918: private"),
    (v4([192, 0, 0, 0], 24), "RFC 6890: protocol assignments"),
    (v4([192, 0, 2, 0], 24), "RFC 5737: documentation"),
    (v4([192, 31, 196, 0], 24), "RFC 7535: AS112"),
    (v4([192, 52, 193, 0], 24), "RFC 7450: multicast relays"),
    (v4([192, 88, 99, 0], 24), "RFC 7526: 6to4 relays"),
    (v4([192, 168, 0, 0], 16), "RFC 1918: private"),
    (v4([192, 175, 48, 0], 24), "RFC 7534: AS112"),
    (v4([198, 18, 0, 0], 15), "RFC 2544: benchmarks"),
    (v4([198, 51, 100, 0], 24), "RFC 5737: documentation"),
    (v4([203, 0, 113, 0], 24), "RFC 5737: documentation"),
    (v4([224, 0, 0, 0], 4), "RFC 5771: multicast"),
    (v4([255, 255, 255, 255], 32), "RFC 919: broadcast"),
    (v4([240, 0, 0, 0], 4), "RFC 1112: reserved"),
    (v6([0, 0, 0, 0], 128), "RFC 4291: unspecified"),
    (IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128), "RFC 4291: loopback"),
    (v6([0, 0, 0, 0], 96), "RFC 4291: IPv4-compatible"),
    (v6([0x64, 0xff9b, 1, 0], 48), "RFC 8215: a local translator"),
    (v6([0x100, 0, 0, 0], 64), "RFC 6666: discarded"),
    (v6([0x2001, 0, 0, 0], 23), "RFC 2928: protocol assignments, Teredo"),
    (v6([0x2001, 0xdb8, 0, 0], 32), "RFC 3849: documentation"),
    (v6([0x2002, 0, 0, 0], 16), "RFC 3056: 6to4"),
    (v6([0x2620, 0x4f, 0x8000, 0], 48), "RFC 7534: AS112"),
    (v6([0x3fff, 0, 0, 0], 20), "RFC 9637: documentation"),
    (v6([0x5f00, 0, 0, 0], 16), "RFC 9602: segment routing"),
    (v6([0xfc00, 0, 0, 0], 7), "RFC 4193: unique local"),
    (v6([0xfe80, 0, 0, 0], 10), "RFC 4291: link-local"),
    (v6([0xfec0, 0, 0, 0], 10), "RFC 3879: site-local"),
    (v6([0xff00, 0, 0, 0], 8), "RFC 4291: multicast"),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length)
}

const fn v6([a, b, c, d]: [u16; 4], length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each leads to an address inside, or nowhere.
    const INTERNAL: &[&str] = &[
        // Loopback, as decimal, octal, hexadecimal and short numbers.
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "http://127.0.0.1./",
        "http://127.1/",
        "http://127.0.1/",
        "http://127.255.255.254/",
        "http://2130706433/",
        "http://2130706433./",
        "http://0x7f000001/",
        "http://0X7F000001/",
        "http://0x7F.0.0.1/",
        "http://0x7f.1/",
        "http://017700000001/",
        "http://0177.0.0.1/",
        "http://0000177.0.0.01/",
        "http://127.0x0.00.1/",
        "http://0/",
        "http://0.0.0.0/",
        "http://0x/",
        // The metadata of clouds.
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0xA9.0xFE.0xA9.0xFE/",
        "http://0251.0376.0251.0376/",
        "http://169.254.43518/",
        "http://169.16689662/",
        "http://100.100.100.200/",
        "http://192.0.0.192/",
        "http://168.63.129.16/",
        "http://[fd00:ec2::254]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[64:ff9b::169.254.169.254]/",
        // IPv6, and IPv4 that is written as IPv6.
        "http://[::1]/",
        "http://[::]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[0000::0001]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::FFFF:7F00:1]/",
        "http://[::ffff:0:127.0.0.1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b:1::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[FE80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fec0::1]/",
        "http://[ff02::1]/",
        "http://[4000::1]/",
        // Other letters, and letters in code.
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
        "http://127．0．0．1/",
        "http://①②⑦.0.0.1/",
        "http://127.0.0.1\u{ad}/",
        "http://%31%32%37.0.0.1/",
        "http://127%2e0%2e0%2e1/",
        "http://0x7f%30%30%30001/",
        // What only looks as if another host were asked.
        "http://allowed.example@127.0.0.1/",
        "https://allowed.example:443@127.0.0.1/",
        "https://allowed.example%20@127.0.0.1/",
        "http://127.0.0.1#@allowed.example/",
        "http://127.0.0.1?@allowed.example/",
        "http://127.0.0.1\\@allowed.example/",
        "http:\\\\127.0.0.1\\",
        "http:127.0.0.1/",
        "http:///127.0.0.1/",
        " \tht\ntp://127.0.\t0.1/ ",
        "http://127.0.0.1%00.allowed.example/",
        "https://127.0.0.1:0/",
        // Private networks.
        "http://10.0.0.1/",
        "http://172.31.255.255/",
        "http://192.168.0.1/",
    ];

    /// None is a host that is allowed, whatever it resolves to.
    const LOOK_ALIKES: &[&str] = &[
        "http://localhost/",
        "http://LOCALHOST/",
        "https://localhost./",
        "http://localhost.localdomain/",
        "http://ip6-localhost/",
        "http://metadata.google.internal/",
        "https://127.0.0.1.nip.io/",
        "https://allowed.example.evil.test/",
        "https://allowed.example.:443@evil.test/",
        "https://evil-allowed.example/",
        "https://evilallowed.example/",
        "https://sub.allowed.example/",
        "https://allowed.example./",
        "https://allowed.example../",
        "https://.allowed.example/",
        "https://allowed.example:8443/",
        "https://allowed.example:80/",
        "http://allowed.example/",
        "http://allowed.example:443/",
        "https://allowed.example%2eevil.test/",
        "https://allowed.example。evil.test/",
        "https://allowed.example@evil.test/",
        "https://evil.test/allowed.example",
        "https://evil.test#allowed.example",
        "https://evil.test?https://allowed.example/",
        "https://evil.test\\allowed.example",
        "https://аllowed.example/",
        "https://below.example/",
        "https://.below.example/",
        "https://a..below.example/",
        "https://evilbelow.example/",
        "https://a.below.example.evil.test/",
        "http://a.below.example/",
        "https://plain.example:8080/",
        "http://plain.example/",
    ];

    /// No request at all.
    const NO_REQUESTS: &[&str] = &[
        "file:///etc/passwd",
        "ftp://allowed.example/",
        "gopher://allowed.example/",
        "data:text/plain,hello",
        "blob:https://allowed.example/1",
        "ws://allowed.example/",
        "//allowed.example/",
        "https://user:secret@allowed.example/",
    ];

    const ALLOWED: &[&str] = &[
        "https://allowed.example/",
        "https://allowed.example:443/x?y",
        "HTTPS://ALLOWED.example",
        "https://ａllowed。example/",
        "https://%61llowed.example/",
        // The backslash begins the path: what is judged is what is asked.
        "https://allowed.example\\@evil.test/",
        "https://allowed.example#@evil.test/",
        "https://a.below.example/",
        "https://a.b.below.example/",
        "http://plain.example:8080/",
        "https://bücher.example/",
        "https://xn--bcher-kva.example/",
        "http://8.8.8.8/",
    ];

    fn hosts() -> Vec<AllowedHost> {
        let texts = [
            "Allowed.Example.",
            "*.below.example",
            "http://plain.example:8080",
            "BÜCHER.example",
            "http://8.8.8.8",
        ];
        texts.map(|text| AllowedHost::parse(text).expect(text)).to_vec()
    }

    fn check(text: &str, allow_hosts: &[AllowedHost]) -> Result<Url, String> {
        let url = in_form(Url::parse(text).map_err(|error| error.to_string())?)?;
        let rules = Rules { listed: &[], allow_hosts, networks_allowed: &[] };
        rules.check(&url).map(|()| url)
    }

    #[test]
    fn what_a_task_names_is_allowed_and_no_look_alike_of_it() {
        let hosts = hosts();
        for text in ALLOWED {
            assert!(check(text, &hosts).is_ok(), "{text}: {:?}", check(text, &hosts));
        }
        for text in INTERNAL.iter().chain(LOOK_ALIKES).chain(NO_REQUESTS) {
            assert!(check(text, &hosts).is_err(), "{text}");
        }
    }

    #[test]
    fn no_spelling_of_an_internal_address_is_reached_even_if_the_task_names_it() {
        for text in INTERNAL {
            let Ok(url) = Url::parse(text) else { continue };
            let address = literal(&url).unwrap_or_else(|| panic!("{text} is an address: {url}"));
            assert!(!is_reachable(address, &[]), "{text}");
            let scheme = if url.scheme() == "https" { "https" } else { "http" };
            let named = AllowedHost {
                scheme,
                host: Host::Whole(url.host_str().unwrap_or_default().to_owned()),
                port: url.port_or_known_default().unwrap_or_default(),
            };
            assert!(check(text, &[named]).is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_operator_lists_or_allows_is_reached_though_it_is_internal() {
        let url = Url::parse("http://127.0.0.1:9999/x").expect("a URL");
        let named = [AllowedHost::parse("http://127.0.0.1:9999").expect("a host")];
        let (listed, network) = (["http://127.0.0.1:9999".to_owned()], v4([127, 0, 0, 0], 8));
        let check = |listed: &[String], allow_hosts: &[AllowedHost], networks: &[IpNet]| {
            Rules { listed, allow_hosts, networks_allowed: networks }.check(&url).is_ok()
        };
        assert!(check(&listed, &[], &[]));
        assert!(check(&[], &named, &[network]));
        assert!(!check(&[], &named, &[v4([10, 0, 0, 0], 8)]));
        assert!(!check(&[], &[], &[network]), "a network allows no host");
    }

    #[test]
    fn each_special_network_is_closed_to_its_edges_until_it_is_allowed() {
        for (network, why) in NOT_PUBLIC {
            let last = match network {
                IpNet::V4(network) => IpAddr::V4(network.broadcast()),
                IpNet::V6(network) => IpAddr::V6(network.broadcast()),
            };
            for address in [network.addr(), last] {
                assert!(!is_reachable(address, &[]), "{address} {why}");
                assert!(is_reachable(address, &[*network]), "{address} {why}");
            }
        }
        let private = [v4([10, 0, 0, 0], 8)];
        for text in ["::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "10.0.0.1"] {
            assert!(is_reachable(text.parse().expect("an address"), &private), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_reached_to_the_edges_of_what_is_not() {
        for text in [
            "1.0.0.0",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::",
            "2001:db7:ffff::1",
            "2003::1",
            "2606:4700::1111",
            "3ffe:ffff::1",
            "64:ff9b::8.8.8.8",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_reachable(text.parse().expect("an address"), &[]), "{text}");
        }
    }

    #[test]
    fn a_host_is_a_host_with_scheme_and_port_and_nothing_else() {
        for (text, scheme, host, port) in [
            ("api.example.com", "https", Host::Whole("api.example.com".into()), 443),
            ("API.Example.com.:8443", "https", Host::Whole("api.example.com".into()), 8443),
            ("HTTP://mail.internal:8025", "http", Host::Whole("mail.internal".into()), 8025),
            ("http://mail", "http", Host::Whole("mail".into()), 80),
            ("https://[2606:4700::1]:99", "https", Host::Whole("[2606:4700::1]".into()), 99),
            ("*.bücher.example", "https", Host::Below("xn--bcher-kva.example".into()), 443),
            ("*.example.com:8443", "https", Host::Below("example.com".into()), 8443),
        ] {
            assert_eq!(AllowedHost::parse(text), Ok(AllowedHost { scheme, host, port }), "{text}");
        }
        let long = format!("{}.example", "a.".repeat(130));
        for text in [
            "",
            "*",
            "*.",
            "*.com",
            "*.10.0.0.1",
            "*.*.example.com",
            "a.*.example.com",
            "*example.com",
            "http://*.example.com",
            "ftp://example.com",
            "://example.com",
            "example.com/",
            "example.com/path",
            "example.com?query",
            "example.com#fragment",
            "user@example.com",
            "user:secret@example.com",
            "example.com\\x",
            "exam ple.com",
            "example.com\n",
            "example.com:0",
            "example.com:99999",
            "example.com:https",
            "%65xample.com",
            "a..example.com",
            ".example.com",
            "example.com..",
            "1.2.3.4.5",
            &long,
        ] {
            let error = AllowedHost::parse(text).expect_err(text);
            assert!(error.contains("write a host as in") && !error.contains('\n'), "{error}");
            assert!(error.len() < 300, "{error}");
        }
    }
}
