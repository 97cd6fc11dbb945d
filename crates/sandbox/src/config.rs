//! What a script says of itself: `export const config = {…}`. It is read, not run: a script that
//! has no rights yet must not decide which it gets.

use oxc::ast::ast::{
    Declaration, Expression, ObjectPropertyKind, Program, PropertyKey, Statement, UnaryOperator,
    VariableDeclaration,
};
use oxc::span::GetSpan as _;
use serde_json::{Map, Number, Value};

/// A value nests this deep at most.
const DEPTH_MAX: usize = 16;
pub(crate) const NAME: &str = "config";
const WANTED: &str = "config is read without running the script: it must be a literal";

pub(crate) const ELSEWHERE: &str = "config is read without running the script: write \
     `export const config = { … }` in this file, with literals";

/// Where in the text, and what is wrong there.
type Wrong = (usize, String);

/// The config that a program exports, as JSON: `export const config = {…}`, or, as bundlers write
/// it, `const config = {…}; export { config }`.
pub(crate) fn exported(program: &Program<'_>) -> Result<Option<Value>, Wrong> {
    let mut local = None;
    for statement in &program.body {
        match statement {
            Statement::ExportDeclaration(export) => {
                if let Declaration::VariableDeclaration(declared) = &export.declaration
                    && let Some(init) = named(declared, NAME)
                {
                    return value(init, 0).map(Some);
                }
            }
            Statement::ExportNamedDeclaration(export) => {
                let mut all = export.specifiers.iter();
                local = all.find(|one| one.exported.name() == NAME).map(|one| one.local.name());
            }
            _ => {}
        }
    }
    let Some(local) = local else { return Ok(None) };
    for statement in &program.body {
        if let Statement::VariableDeclaration(declared) = statement
            && let Some(init) = named(declared, local.as_str())
        {
            return value(init, 0).map(Some);
        }
    }
    Ok(None)
}

/// What a variable of this name is declared to be.
fn named<'a>(declared: &'a VariableDeclaration<'a>, name: &str) -> Option<&'a Expression<'a>> {
    let mut all = declared.declarations.iter();
    let one = all.find(|one| one.id.get_identifier_name().is_some_and(|it| it == name))?;
    one.init.as_ref()
}

fn value(expression: &Expression<'_>, depth: usize) -> Result<Value, Wrong> {
    let wrong = || (expression.span().start as usize, WANTED.to_owned());
    if depth > DEPTH_MAX {
        return Err(wrong());
    }
    match expression {
        Expression::NullLiteral(_) => Ok(Value::Null),
        Expression::BooleanLiteral(literal) => Ok(literal.value.into()),
        Expression::StringLiteral(literal) => Ok(literal.value.as_str().into()),
        Expression::NumericLiteral(literal) => number(literal.value).ok_or_else(wrong),
        Expression::TemplateLiteral(literal) if literal.expressions.is_empty() => {
            let text = literal.quasis.first().and_then(|part| part.value.cooked);
            text.map(|text| text.as_str().into()).ok_or_else(wrong)
        }
        Expression::UnaryExpression(unary) if unary.operator == UnaryOperator::UnaryNegation => {
            let Expression::NumericLiteral(literal) = &unary.argument else {
                return Err(wrong());
            };
            number(-literal.value).ok_or_else(wrong)
        }
        Expression::ArrayExpression(array) => {
            let items = array
                .elements
                .iter()
                .map(|element| value(element.as_expression().ok_or_else(wrong)?, depth + 1));
            items.collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        Expression::ObjectExpression(object) => {
            let mut map = Map::new();
            for property in &object.properties {
                let ObjectPropertyKind::ObjectProperty(property) = property else {
                    return Err(wrong());
                };
                let name = match &property.key {
                    PropertyKey::StaticIdentifier(name) => name.name.to_string(),
                    PropertyKey::StringLiteral(name) => name.value.to_string(),
                    other => return Err((other.span().start as usize, WANTED.to_owned())),
                };
                map.insert(name, value(&property.value, depth + 1)?);
            }
            Ok(Value::Object(map))
        }
        Expression::TSAsExpression(typed) => value(&typed.expression, depth + 1),
        Expression::TSSatisfiesExpression(typed) => value(&typed.expression, depth + 1),
        Expression::ParenthesizedExpression(inner) => value(&inner.expression, depth + 1),
        _ => Err(wrong()),
    }
}

/// A whole number stays one.
fn number(value: f64) -> Option<Value> {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        #[expect(clippy::cast_possible_truncation, reason = "looked at just before")]
        return Some((value as i64).into());
    }
    Number::from_f64(value).map(Value::Number)
}
