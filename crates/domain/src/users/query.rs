//! Finding users by their attributes: conditions joined by AND, a sort order, one page. The text of
//! the statement is put together here from our own pieces; values are arguments.

use super::{COLUMNS, Indexed, PAGE_ROWS_MAX, User, UserSchema, user};
use crate::store::{Arg, Read, Row};
use crate::values::error::{Error, Result};
use crate::values::ids::AppId;
use crate::values::time::Time;

/// More conditions or sort fields than these are a mistake.
const TERMS_MAX: usize = 20;

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Equal.
    Is,
    /// Not equal, or not set.
    IsNot,
    /// Less.
    Less,
    /// Less or equal.
    AtMost,
    /// Greater.
    Greater,
    /// Greater or equal.
    AtLeast,
    /// The text contains the value.
    Contains,
    /// Set (`false`) or not set (`true`).
    IsNull,
}

impl Operator {
    /// The operator of a suffix in `query[field.suffix]`; no suffix means equal.
    pub fn from_suffix(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "" => Self::Is,
            "ne" => Self::IsNot,
            "lt" => Self::Less,
            "lte" => Self::AtMost,
            "gt" => Self::Greater,
            "gte" => Self::AtLeast,
            "contains" => Self::Contains,
            "null" => Self::IsNull,
            _ => return None,
        })
    }

    /// `null` when it is about the absence of a value; else the SQL between column and argument.
    fn sql(self) -> &'static str {
        match self {
            Self::Is | Self::IsNot => "=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
            Self::Contains | Self::IsNull => "",
        }
    }
}

/// One condition on an attribute, or on `id`, `_updated_at` or `_created_at`.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The attribute.
    pub field: String,
    /// The comparison.
    pub operator: Operator,
    /// The value as text.
    pub value: String,
}

/// Which way to sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest first.
    Up,
    /// Largest first.
    Down,
}

/// Which users are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// The sort order; afterwards by creation.
    pub sort: Vec<(String, Direction)>,
    /// How many at most.
    pub limit: i64,
    /// How many to leave out first.
    pub skip: i64,
}

struct Text {
    sql: String,
    args: Vec<Arg>,
}

impl Text {
    fn arg(&mut self, arg: impl Into<Arg>) {
        self.args.push(arg.into());
        self.sql.push_str(&format!("${}", self.args.len()));
    }
}

/// One page of users that match, and how many match in all.
pub async fn select(
    read: &mut Read,
    app: AppId,
    schema: &UserSchema,
    query: &Query,
) -> Result<(Vec<User>, i64)> {
    if query.conditions.len() > TERMS_MAX || query.sort.len() > TERMS_MAX {
        let why = format!("at most {TERMS_MAX} conditions and sort fields");
        return Err(Error::invalid("query", why));
    }
    let mut text = Text { sql: String::new(), args: Vec::new() };
    text.sql.push_str(" from users u where u.deleted_at is null and u.app_id = ");
    text.arg(app);
    for condition in &query.conditions {
        text.sql.push_str(" and ");
        add_condition(&mut text, schema, condition)?;
    }
    let count = format!("select count(*){}", text.sql);
    let rows = read.rows_of(count, text.args.clone()).await?;
    let total = rows.first().map_or(Ok(0), |row| row.int(0))?;
    text.sql.push_str(" order by ");
    for (field, direction) in &query.sort {
        add_sort(&mut text, schema, field, *direction)?;
    }
    text.sql.push_str("u.created_at, u.id limit ");
    text.arg(query.limit.clamp(0, PAGE_ROWS_MAX));
    text.sql.push_str(" offset ");
    text.arg(query.skip);
    let rows: Vec<Row> = read.rows_of(format!("select {COLUMNS}{}", text.sql), text.args).await?;
    let users: Result<Vec<User>> = rows.iter().map(user).collect();
    Ok((users?, total))
}

fn add_condition(text: &mut Text, schema: &UserSchema, condition: &Condition) -> Result<()> {
    let Condition { field, operator, value } = condition;
    if let Some(column) = own_column(field) {
        return add_own(text, column, condition);
    }
    let kind = schema.field(field)?;
    let is_absent = match operator {
        Operator::IsNull => boolean(field, value)?,
        Operator::IsNot => true,
        _ => false,
    };
    if is_absent {
        text.sql.push_str("not ");
    }
    text.sql
        .push_str("exists (select 1 from user_attributes a where a.user_id = u.id and a.name = ");
    text.arg(field);
    match operator {
        Operator::IsNull => {}
        Operator::Contains => {
            // What changes when the value is taken out contains it: the same in both databases, and
            // no pattern characters.
            text.sql.push_str(" and replace(a.text_value, ");
            text.arg(value);
            text.sql.push_str(", '') <> a.text_value");
        }
        _ => {
            let (column, arg) = match kind.index_text(field, value)? {
                Indexed::Text(text) => ("text_value", Arg::from(text)),
                Indexed::Number(number) => ("number_value", Arg::from(Some(number))),
            };
            text.sql.push_str(&format!(" and a.{column} {} ", operator.sql()));
            text.arg(arg);
        }
    }
    text.sql.push(')');
    Ok(())
}

fn own_column(field: &str) -> Option<&'static str> {
    match field {
        "id" | "_id" => Some("u.id"),
        "_updated_at" => Some("u.updated_at"),
        "_created_at" => Some("u.created_at"),
        _ => None,
    }
}

fn add_own(text: &mut Text, column: &'static str, condition: &Condition) -> Result<()> {
    let Condition { field, operator, value } = condition;
    let arg =
        if column == "u.id" {
            Arg::from(value)
        } else {
            let moment = Time::parse(value);
            Arg::from(moment.ok_or_else(|| {
                Error::invalid(field, "must be a moment like 2026-05-03T08:12:00Z")
            })?)
        };
    let sql = match operator {
        Operator::IsNot => "<>",
        Operator::Contains | Operator::IsNull => {
            return Err(Error::invalid(field, "can be compared, not searched"));
        }
        other => other.sql(),
    };
    text.sql.push_str(&format!("{column} {sql} "));
    text.arg(arg);
    Ok(())
}

fn add_sort(text: &mut Text, schema: &UserSchema, field: &str, way: Direction) -> Result<()> {
    let (way, nulls) = match way {
        Direction::Up => ("asc", "first"),
        Direction::Down => ("desc", "last"),
    };
    if let Some(column) = own_column(field) {
        text.sql.push_str(&format!("{column} {way}, "));
        return Ok(());
    }
    schema.field(field)?;
    for column in ["number_value", "text_value"] {
        text.sql.push_str(&format!("(select a.{column} from user_attributes a where a.name = "));
        text.arg(field);
        text.sql.push_str(&format!(" and a.user_id = u.id) {way} nulls {nulls}, "));
    }
    Ok(())
}

fn boolean(field: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Error::invalid(field, "null takes true or false")),
    }
}
