//! to come
#[test]
#[ignore = "the child in which scripts run: started by the sandbox, not by people"]
fn sandbox_child() {
    reauth_server::sandbox_child();
}
