//! `reauth doctor`: whether the server is well, by its own account.

use reauth_sdk::{Diagnosis, Finding};

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::paging::Progress;

/// What stands below the verb's help text.
pub(crate) const EXAMPLES: &str = "\
Looks at the database, the clock, the sandbox and the configuration. The exit code is 1 if one of
the findings is an error. It needs the operator's token.

Example:
  reauth doctor --url https://id.example.com";

pub(crate) async fn run(context: &Context) -> Result<()> {
    let progress = Progress::waiting("the server looks at itself");
    let diagnosis = context.client()?.diagnose().await;
    drop(progress);
    let diagnosis = diagnosis?;
    context.output.either(&diagnosis, &text(&diagnosis))?;
    outcome(&diagnosis)
}

/// A finding a line, the worst last, where the eye is.
fn text(diagnosis: &Diagnosis) -> String {
    let mut findings: Vec<&Finding> = diagnosis.findings.iter().collect();
    findings.sort_by_key(|finding| match finding.level.as_str() {
        "ok" => 0,
        "warning" => 1,
        _ => 2,
    });
    let line = |finding: &&Finding| {
        let detail = crate::output::plain(&finding.detail);
        format!("{:<8} {}: {detail}", finding.level, finding.check)
    };
    let lines: Vec<String> = findings.iter().map(line).collect();
    lines.join("\n")
}

fn outcome(diagnosis: &Diagnosis) -> Result<()> {
    let errors = diagnosis.findings.iter().filter(|finding| finding.level == "error").count();
    if diagnosis.ok && errors == 0 {
        return Ok(());
    }
    let of = diagnosis.findings.len();
    let what = format!("the server is not well: {errors} of {of} findings are errors");
    Err(Failure::new(what).help("each error says what to do"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis(ok: bool, levels: &[&str]) -> Diagnosis {
        let finding = |level: &&str| Finding {
            level: (*level).to_owned(),
            check: format!("check {level}"),
            detail: "found".to_owned(),
        };
        Diagnosis { ok, findings: levels.iter().map(finding).collect() }
    }

    #[test]
    fn the_worst_comes_last() {
        let text = text(&diagnosis(false, &["error", "ok", "warning"]));
        let levels: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(levels, ["ok", "warning", "error"]);
    }

    #[test]
    fn an_error_fails_and_a_warning_does_not() {
        assert!(outcome(&diagnosis(true, &["ok", "warning"])).is_ok());
        assert!(outcome(&diagnosis(false, &["ok", "error"])).is_err());
        assert!(outcome(&diagnosis(true, &["error"])).is_err());
        assert!(outcome(&diagnosis(false, &[])).is_err());
    }
}
