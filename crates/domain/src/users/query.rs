//! Finding users by their attributes: a tree of conditions, a sort order, one page. Whoever asks,
//! by filters of an address or by an expression, asks with such a tree. The text of the statement
//! is put together here, and only here, from our own pieces; values are arguments.

use serde_json::Value;

use super::{COLUMNS, FieldType, Indexed, PAGE_ROWS_MAX, User, UserSchema, user};
use crate::store::{Arg, Read, Row};
use crate::values::error::{Error, Result};
use crate::values::ids::AppId;
use crate::values::time::Time;

/// More conditions than these are a mistake.
pub(super) const CONDITIONS_MAX: usize = 100;
/// Each field to sort by looks up the attributes of every user that is found.
const ORDERS_MAX: usize = 20;
/// More values in one list are several questions.
const LIST_MAX: usize = 1_000;

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
    /// The text starts with the value.
    StartsWith,
    /// Equal to one of the values of a list; a null in it is "not set".
    In,
    /// Equal to none of the values of a list, or not set; a null in it is "not set".
    NotIn,
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

    fn is_search(self) -> bool {
        matches!(self, Self::Contains | Self::StartsWith)
    }
}

/// A tree of conditions, or of what is about to become conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter<C = Condition> {
    /// All must hold. None at all: everyone is wanted.
    All(Vec<Self>),
    /// At least one must hold. None at all: nobody is wanted.
    Any(Vec<Self>),
    /// This must hold.
    One(C),
}

impl<C> Default for Filter<C> {
    /// Everyone is wanted.
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

impl<C> Filter<C> {
    /// How many leaves it has.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().map(Self::count).sum(),
            Self::One(_) => 1,
        }
    }

    /// The same tree with other leaves, made from left to right.
    pub(super) fn try_map<D>(self, make: &mut impl FnMut(C) -> Result<D>) -> Result<Filter<D>> {
        let mut all = |parts: Vec<Self>| -> Result<Vec<_>> {
            parts.into_iter().map(|part| part.try_map(make)).collect()
        };
        Ok(match self {
            Self::All(parts) => Filter::All(all(parts)?),
            Self::Any(parts) => Filter::Any(all(parts)?),
            Self::One(leaf) => Filter::One(make(leaf)?),
        })
    }
}

/// What is compared: an attribute, or one of the columns that every user has.
pub(super) struct Subject<'a> {
    name: &'a str,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Id,
    Moment(&'static str),
    Attribute(&'a FieldType),
}

impl<'a> Subject<'a> {
    /// The subject of this name, or that there is none.
    pub(super) fn of(schema: &'a UserSchema, name: &'a str) -> Result<Self> {
        let kind = match name {
            "id" | "_id" => Kind::Id,
            // No attribute can be called so, and it is how an object shows it.
            "updated_at" | "_updated_at" => Kind::Moment("u.updated_at"),
            "_created_at" => Kind::Moment("u.created_at"),
            _ => Kind::Attribute(schema.field(name)?),
        };
        Ok(Self { name, kind })
    }

    /// Refuses an operator that makes no sense here.
    pub(super) fn check(&self, operator: Operator) -> Result<()> {
        let is_text = matches!(
            self.kind,
            Kind::Attribute(
                FieldType::Text | FieldType::Date | FieldType::Datetime | FieldType::Choice(_)
            )
        );
        if operator.is_search() && !is_text {
            return Err(self.wrong("is no text: it can be compared, not searched"));
        }
        Ok(())
    }

    /// The condition that compares it with this value.
    pub(super) fn compare(&self, operator: Operator, value: &Value) -> Result<Condition> {
        let (is_not, test) = match (operator, value) {
            (Operator::IsNull, _) => {
                let is_null =
                    value.as_bool().ok_or_else(|| self.wrong("null takes true or false"))?;
                (is_null, Test::Set)
            }
            (Operator::In | Operator::NotIn, Value::Array(values)) => {
                self.among(operator == Operator::NotIn, values)?
            }
            (Operator::In | Operator::NotIn, _) => {
                return Err(self.wrong("must be an array: in and not in look into a list"));
            }
            (Operator::Is, Value::Null) => (true, Test::Set),
            (Operator::IsNot, Value::Null) => (false, Test::Set),
            (_, Value::Null) => {
                return Err(self.wrong("must not be null: null goes with = and !="));
            }
            (_, Value::Array(_)) => {
                return Err(self.wrong("must not be an array: a list goes with in and not in"));
            }
            (operator, value) if operator.is_search() => {
                // Part of a date is no date, so this is any text. Every text contains nothing.
                let test = match FieldType::Text.index(self.name, value)? {
                    Indexed::Text(text) if !text.is_empty() => Test::Search(operator, text),
                    _ => Test::Set,
                };
                (false, test)
            }
            (operator, value) => {
                let is_not = operator == Operator::IsNot;
                (is_not, Test::Compare(operator, self.arg(value)?))
            }
        };
        Ok(Condition { column: self.column(), is_not, test })
    }

    /// What is not set is in a list with a null: whatever is not both set and outside of the rest.
    fn among(&self, is_not: bool, values: &[Value]) -> Result<(bool, Test)> {
        if values.len() > LIST_MAX {
            return Err(self.wrong(&format!("must be a list of at most {LIST_MAX} values")));
        }
        let set = values.iter().filter(|value| !value.is_null());
        let args: Vec<Arg> = set.map(|value| self.arg(value)).collect::<Result<_>>()?;
        let has_null = args.len() < values.len();
        Ok((is_not != has_null, Test::Among { is_inside: !has_null, args }))
    }

    fn arg(&self, value: &Value) -> Result<Arg> {
        let kind = match self.kind {
            Kind::Id => &FieldType::Text,
            Kind::Attribute(kind) => kind,
            Kind::Moment(_) => {
                let moment = value.as_str().and_then(Time::parse);
                let wanted = "must be a moment like 2026-05-03T08:12:00Z";
                return moment.map(Arg::from).ok_or_else(|| self.wrong(wanted));
            }
        };
        Ok(match kind.index(self.name, value)? {
            Indexed::Text(text) => Arg::from(text),
            Indexed::Number(number) => Arg::from(Some(number)),
        })
    }

    fn column(&self) -> Column {
        match self.kind {
            Kind::Id => Column::Own("u.id"),
            Kind::Moment(column) => Column::Own(column),
            Kind::Attribute(FieldType::Integer | FieldType::Number) => {
                Column::Number(self.name.to_owned())
            }
            Kind::Attribute(_) => Column::Text(self.name.to_owned()),
        }
    }

    fn wrong(&self, why: &str) -> Error {
        Error::invalid(self.name, why)
    }
}

/// Where a value is: in a column of the user, or beside the user under an attribute's name.
#[derive(Clone, Debug)]
enum Column {
    Own(&'static str),
    Text(String),
    Number(String),
}

/// What must be true of a value, if there is one.
#[derive(Clone, Debug)]
enum Test {
    Set,
    Compare(Operator, Arg),
    Search(Operator, String),
    Among { is_inside: bool, args: Vec<Arg> },
}

/// One condition on an attribute, or on `id`, `_updated_at` or `_created_at`, that fits its type.
#[derive(Clone, Debug)]
pub struct Condition {
    column: Column,
    is_not: bool,
    test: Test,
}

impl Condition {
    /// A condition whose value arrived as text in a query. An error names the attribute.
    pub fn of_text(
        schema: &UserSchema,
        field: &str,
        operator: Operator,
        text: &str,
    ) -> Result<Self> {
        let subject = Subject::of(schema, field)?;
        subject.check(operator)?;
        let value = match (operator, &subject.kind) {
            (Operator::IsNull, _) => boolean(field, text)?.into(),
            (_, Kind::Attribute(kind)) if !operator.is_search() => kind.value_of_text(text),
            _ => text.into(),
        };
        // "null" in an address is a text: what is not set is asked for by a suffix.
        let value = if value.is_null() { text.into() } else { value };
        subject.compare(operator, &value)
    }
}

fn boolean(field: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Error::invalid(field, "null takes true or false")),
    }
}

/// Which way to sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest first.
    Up,
    /// Largest first.
    Down,
}

/// One field to sort by; what is not set is smallest.
#[derive(Clone, Debug)]
pub struct Order {
    column: Column,
    direction: Direction,
}

impl Order {
    /// By an attribute, or by `id`, `_updated_at` or `_created_at`.
    pub fn new(schema: &UserSchema, field: &str, direction: Direction) -> Result<Self> {
        Ok(Self { column: Subject::of(schema, field)?.column(), direction })
    }
}

/// Which users are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// What must hold.
    pub filter: Filter,
    /// The sort order; afterwards by creation.
    pub sort: Vec<Order>,
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
    fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    fn arg(&mut self, arg: impl Into<Arg>) {
        self.args.push(arg.into());
        self.sql.push_str(&format!("${}", self.args.len()));
    }
}

/// One page of users that match, and how many match in all.
pub async fn select(read: &mut Read, app: AppId, query: &Query) -> Result<(Vec<User>, i64)> {
    if query.filter.count() > CONDITIONS_MAX {
        return Err(Error::invalid("query", format!("at most {CONDITIONS_MAX} conditions")));
    }
    if query.sort.len() > ORDERS_MAX {
        return Err(Error::invalid("sort", format!("at most {ORDERS_MAX} fields")));
    }
    let mut text = Text { sql: String::new(), args: Vec::new() };
    text.push(" from users u where u.deleted_at is null and u.app_id = ");
    text.arg(app);
    text.push(" and ");
    add_filter(&mut text, &query.filter);
    let count = format!("select count(*){}", text.sql);
    let rows = read.rows_of(count, text.args.clone()).await?;
    let total = rows.first().map_or(Ok(0), |row| row.int(0))?;
    text.push(" order by ");
    for order in &query.sort {
        add_order(&mut text, order);
    }
    text.push("u.created_at, u.id limit ");
    text.arg(query.limit.clamp(0, PAGE_ROWS_MAX));
    text.push(" offset ");
    text.arg(query.skip);
    let rows: Vec<Row> = read.rows_of(format!("select {COLUMNS}{}", text.sql), text.args).await?;
    let users: Result<Vec<User>> = rows.iter().map(user).collect();
    Ok((users?, total))
}

fn add_filter(text: &mut Text, filter: &Filter) {
    let (parts, between, nothing) = match filter {
        Filter::All(parts) => (parts, " and ", "1 = 1"),
        Filter::Any(parts) => (parts, " or ", "1 = 0"),
        Filter::One(condition) => return add_condition(text, condition),
    };
    if parts.is_empty() {
        return text.push(nothing);
    }
    text.push("(");
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            text.push(between);
        }
        add_filter(text, part);
    }
    text.push(")");
}

fn add_condition(text: &mut Text, condition: &Condition) {
    let Condition { column, is_not, test } = condition;
    if *is_not {
        text.push("not ");
    }
    let (name, column) = match column {
        Column::Own(column) => return add_test(text, column, test),
        Column::Text(name) => (name, "a.text_value"),
        Column::Number(name) => (name, "a.number_value"),
    };
    text.push("exists (select 1 from user_attributes a where a.user_id = u.id and a.name = ");
    text.arg(name);
    text.push(" and ");
    add_test(text, column, test);
    text.push(")");
}

fn add_test(text: &mut Text, column: &str, test: &Test) {
    match test {
        Test::Set => text.push("1 = 1"),
        Test::Compare(operator, arg) => {
            text.push(&format!("{column} {} ", between(*operator)));
            text.arg(arg.clone());
        }
        Test::Search(Operator::StartsWith, value) => {
            // Both databases count characters here; and no pattern characters.
            text.push(&format!("substr({column}, 1, length("));
            text.arg(value);
            text.push(&format!(")) = ${}", text.args.len()));
        }
        Test::Search(_, value) => {
            // What changes when the value is taken out contains it: the same in both databases, and
            // no pattern characters.
            text.push(&format!("replace({column}, "));
            text.arg(value);
            text.push(&format!(", '') <> {column}"));
        }
        Test::Among { is_inside, args } if args.is_empty() => {
            text.push(if *is_inside { "1 = 0" } else { "1 = 1" });
        }
        Test::Among { is_inside, args } => {
            text.push(&format!("{column} {}in (", if *is_inside { "" } else { "not " }));
            for (at, arg) in args.iter().enumerate() {
                if at > 0 {
                    text.push(", ");
                }
                text.arg(arg.clone());
            }
            text.push(")");
        }
    }
}

/// The SQL between a column and an argument.
fn between(operator: Operator) -> &'static str {
    match operator {
        Operator::Less => "<",
        Operator::AtMost => "<=",
        Operator::Greater => ">",
        Operator::AtLeast => ">=",
        // That it is not is said of the whole condition.
        _ => "=",
    }
}

fn add_order(text: &mut Text, order: &Order) {
    let (way, nulls) = match order.direction {
        Direction::Up => ("asc", "first"),
        Direction::Down => ("desc", "last"),
    };
    let (name, column) = match &order.column {
        Column::Own(column) => return text.push(&format!("{column} {way}, ")),
        Column::Text(name) => (name, "text_value"),
        Column::Number(name) => (name, "number_value"),
    };
    text.push(&format!("(select a.{column} from user_attributes a where a.name = "));
    text.arg(name);
    text.push(&format!(" and a.user_id = u.id) {way} nulls {nulls}, "));
}
