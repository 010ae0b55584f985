//! A tree filled in with data.

use super::functions;
use super::parse::{Argument, Command, Node, Pipeline};
use super::{Result, error};
use serde_json::Value;
use std::borrow::Cow;

/// Steps that a template may take: a range over thousands of things is far below it.
const MAX_STEPS: u32 = 1 << 20;
/// Bytes that may come out.
const MAX_OUTPUT: usize = 64 << 20;

/// Fills a template in.
pub fn fill(nodes: &[Node], data: &Value) -> Result<String> {
    let mut run = Run { root: data, variables: Vec::new(), steps: 0, out: String::new() };
    run.nodes(nodes, data)?;
    Ok(run.out)
}

struct Run<'a> {
    root: &'a Value,
    variables: Vec<(String, Value)>,
    steps: u32,
    out: String,
}

/// Go's idea of it: false, 0, nil and all that is empty are not.
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn walk<'v>(mut value: Cow<'v, Value>, fields: &[String]) -> Result<Cow<'v, Value>> {
    for field in fields {
        value = match value {
            Cow::Borrowed(value) => Cow::Borrowed(step(value, field)?),
            Cow::Owned(value) => Cow::Owned(step(&value, field)?.clone()),
        };
    }
    Ok(value)
}

fn step<'v>(value: &'v Value, field: &str) -> Result<&'v Value> {
    match value {
        Value::Object(map) => match map.get(field) {
            Some(value) => Ok(value),
            None => {
                let known: Vec<&str> = map.keys().map(String::as_str).take(40).collect();
                error(format!("there is no field {field}; there are: {}", known.join(", ")))
            }
        },
        other => error(format!("there is no field {field} in {}", functions::print(other))),
    }
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        let scope = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(scope);
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS || self.out.len() > MAX_OUTPUT {
            return error("it goes on for too long");
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<()> {
        self.step()?;
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Value(pipeline) => {
                let value = self.pipeline(pipeline, dot)?.into_owned();
                if pipeline.names.is_empty() {
                    self.out.push_str(&functions::print(&value));
                } else {
                    self.name(pipeline, vec![value])?;
                }
            }
            Node::If { test, then, otherwise, with } => {
                let scope = self.variables.len();
                let value = self.pipeline(test, dot)?.into_owned();
                self.name(test, vec![value.clone()])?;
                match (is_true(&value), with) {
                    (true, true) => self.nodes(then, &value)?,
                    (true, false) => self.nodes(then, dot)?,
                    (false, _) => self.nodes(otherwise, dot)?,
                }
                self.variables.truncate(scope);
            }
            Node::Range { over, each, none } => self.range(over, each, none, dot)?,
        }
        Ok(())
    }

    fn range(&mut self, over: &Pipeline, each: &[Node], none: &[Node], dot: &Value) -> Result<()> {
        let items: Vec<(Value, Value)> = match self.pipeline(over, dot)?.into_owned() {
            Value::Null => Vec::new(),
            Value::Array(list) => {
                list.into_iter().enumerate().map(|(at, item)| (Value::from(at), item)).collect()
            }
            Value::Object(map) => map.into_iter().map(|(key, item)| (Value::from(key), item)).collect(),
            other => {
                return error(format!(
                    "range goes over lists and maps, not over {}",
                    functions::print(&other)
                ));
            }
        };
        if items.is_empty() {
            return self.nodes(none, dot);
        }
        for (key, item) in items {
            self.step()?;
            let scope = self.variables.len();
            let values = if over.names.len() == 2 { vec![key, item.clone()] } else { vec![item.clone()] };
            self.name(over, values)?;
            self.nodes(each, &item)?;
            self.variables.truncate(scope);
        }
        Ok(())
    }

    /// Gives values the pipeline's names, if it has any.
    fn name(&mut self, pipeline: &Pipeline, values: Vec<Value>) -> Result<()> {
        for (name, value) in pipeline.names.iter().zip(values) {
            if pipeline.declares {
                self.variables.push((name.clone(), value));
            } else if let Some(known) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
                known.1 = value;
            } else {
                return error(format!("there is no variable ${name}"));
            }
        }
        Ok(())
    }

    fn pipeline<'v>(&mut self, pipeline: &Pipeline, dot: &'v Value) -> Result<Cow<'v, Value>> {
        let mut value: Option<Cow<'v, Value>> = None;
        for command in &pipeline.commands {
            let last = value.take();
            value = Some(self.command(command, dot, last)?);
        }
        // A pipeline has at least one command.
        Ok(value.unwrap_or(Cow::Owned(Value::Null)))
    }

    fn command<'v>(
        &mut self,
        command: &Command,
        dot: &'v Value,
        last: Option<Cow<'v, Value>>,
    ) -> Result<Cow<'v, Value>> {
        self.step()?;
        let Some(function) = &command.function else {
            return match command.arguments.first() {
                Some(argument) => self.argument(argument, dot),
                None => error("a value is missing"),
            };
        };
        let mut arguments = Vec::with_capacity(command.arguments.len() + 1);
        for argument in &command.arguments {
            let value = self.argument(argument, dot)?.into_owned();
            // What is not needed is not looked at, as in Go: `and .A .A.B`.
            let decided = match function.as_str() {
                "and" => !is_true(&value),
                "or" => is_true(&value),
                _ => false,
            };
            if decided {
                return Ok(Cow::Owned(value));
            }
            arguments.push(value);
        }
        arguments.extend(last.map(Cow::into_owned));
        functions::call(function, arguments).map(Cow::Owned)
    }

    fn argument<'v>(&mut self, argument: &Argument, dot: &'v Value) -> Result<Cow<'v, Value>> {
        match argument {
            Argument::Field(fields) => walk(Cow::Borrowed(dot), fields),
            Argument::Variable(name, fields) if name.is_empty() => {
                walk(Cow::Borrowed(self.root), fields).map(|value| Cow::Owned(value.into_owned()))
            }
            Argument::Variable(name, fields) => {
                match self.variables.iter().rev().find(|(known, _)| known == name) {
                    Some((_, value)) => {
                        walk(Cow::Borrowed(value), fields).map(|value| Cow::Owned(value.into_owned()))
                    }
                    None => error(format!("there is no variable ${name}")),
                }
            }
            Argument::Literal(value) => Ok(Cow::Owned(value.clone())),
            Argument::Inner(pipeline, fields) => {
                let value = self.pipeline(pipeline, dot)?.into_owned();
                walk(Cow::Owned(value), fields)
            }
        }
    }
}
