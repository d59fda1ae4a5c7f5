//! Things to do that an agent keeps by single calls (`TaskCreate`, `TaskUpdate`): the list of all of them, which is
//! what clients are told.
//!
//! The results of the calls have what is needed. Ids count from 1, so the list begins with the result that made 1,
//! and whoever comes later can look for that.

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{TodoItem, TodoStatus, TodoUpdate};
use serde_json::Value;

use super::fit;
use super::json::{flag, object, text};
use crate::limits::LARGE_INPUT_VALUES_MAX;

/// The first thing to do.
const FIRST_ID: &str = "1";

/// What the result of a call says of one thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskChange {
    Created { id: String, subject: String },
    Moved { id: String, status: TodoStatus },
    Deleted { id: String },
}

impl TaskChange {
    /// What the structured result of a tool says.
    pub(super) fn of(result: &Value) -> Option<Self> {
        let fields = result.as_object()?;
        let task = object(result, "task");
        let (id, subject) = (text(task, "id"), text(task, "subject"));
        if fields.len() == 1 && !id.is_empty() {
            let (id, subject) = (fit::cut(id), fit::cut(subject));
            return Some(Self::Created { id, subject });
        }
        let id = text(result, "taskId");
        if id.is_empty() || !flag(result, "success") {
            return None;
        }
        let (id, status) = (fit::cut(id), text(object(result, "statusChange"), "to"));
        match (status, todo_status(status)) {
            ("deleted", _) => Some(Self::Deleted { id }),
            (_, TodoStatus::Unspecified) => None,
            (_, status) => Some(Self::Moved { id, status }),
        }
    }

    /// Whether a list begins with it.
    pub(crate) fn begins(&self) -> bool {
        matches!(self, Self::Created { id, .. } if id == FIRST_ID)
    }
}

/// A status by the agent's name for it.
pub(super) fn todo_status(name: &str) -> TodoStatus {
    match name {
        "pending" => TodoStatus::Pending,
        "in_progress" => TodoStatus::InProgress,
        "completed" => TodoStatus::Completed,
        _ => TodoStatus::Unspecified,
    }
}

/// The list, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// `None`: not known.
    items: Option<Vec<TodoItem>>,
    /// It was looked for in the lines before.
    looked_for: bool,
}

impl Tasks {
    /// Whether the lines before a change must be looked at for the list that it changes.
    pub(super) fn lack_what_is_before(&self, change: &TaskChange) -> bool {
        self.items.is_none() && !self.looked_for && !change.begins()
    }

    /// Takes the changes before what comes next, from the beginning of the list on; none if it was not found.
    pub(super) fn begin_with(&mut self, changes: Vec<TaskChange>) {
        self.looked_for = true;
        for change in changes {
            self.apply(change);
        }
    }

    /// Carries a change out; the list, if it is known and is another one now.
    pub(super) fn apply(&mut self, change: TaskChange) -> Option<Event> {
        if change.begins() {
            self.items = Some(Vec::new());
        }
        let items = self.items.as_mut()?;
        match change {
            TaskChange::Created { id, subject } => {
                items.retain(|item| item.id != id);
                if items.len() >= LARGE_INPUT_VALUES_MAX {
                    return None;
                }
                items.push(TodoItem {
                    id,
                    subject,
                    status: TodoStatus::Pending.into(),
                    ..TodoItem::default()
                });
            }
            TaskChange::Moved { id, status } => {
                let item = items.iter_mut().find(|item| item.id == id)?;
                item.status = status.into();
            }
            TaskChange::Deleted { id } => {
                let at = items.iter().position(|item| item.id == id)?;
                items.remove(at);
            }
        }
        let items = items.clone();
        Some(Event::TodoUpdate(TodoUpdate { items }))
    }
}
