//! The frame of a chart: a stretched SVG for the shapes, HTML for the words.

use std::fmt::Write;

use super::markup::{css_percent, esc};

/// Side of the SVG's square of coordinates; it is stretched to the frame.
pub(super) const SIDE: f64 = 1000.0;

/// To which side of its marker words go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Middle,
    Right,
}

/// A chart under construction. Positions are shares of its width and height, from the lower
/// left corner.
pub(super) struct Plot {
    class: &'static str,
    title: String,
    shapes: String,
    tags: String,
    y_labels: String,
    x_labels: String,
}

impl Plot {
    /// An empty chart with its description for those who do not see it.
    pub(super) fn new(class: &'static str, title: &str) -> Self {
        Self {
            class,
            title: esc(title),
            shapes: String::new(),
            tags: String::new(),
            y_labels: String::new(),
            x_labels: String::new(),
        }
    }

    /// A line across, and its name at the left side.
    pub(super) fn y_mark(&mut self, at: f64, class: &str, label: &str) {
        let y = y(at);
        let _ = write!(
            self.shapes,
            "<line class=\"{class}\" x1=\"0\" x2=\"{SIDE}\" y1=\"{y}\" y2=\"{y}\"/>"
        );
        let _ = write!(
            self.y_labels,
            "<span style=\"bottom:{}\">{}</span>",
            css_percent(at),
            esc(label)
        );
    }

    /// Names below. Every second one may go where there is no room.
    pub(super) fn x_marks(&mut self, marks: &[(f64, String)]) {
        for (index, (at, label)) in marks.iter().enumerate() {
            let edge = match *at {
                at if at < 0.04 => "first",
                at if at > 0.94 => "last",
                _ => "",
            };
            let optional = if marks.len() > 4 && index % 2 == 1 {
                " opt"
            } else {
                ""
            };
            let _ = write!(
                self.x_labels,
                "<span class=\"{edge}{optional}\" style=\"left:{}\">{}</span>",
                css_percent(*at),
                esc(label)
            );
        }
    }

    /// A line through points.
    pub(super) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let _ = write!(
            self.shapes,
            "<path class=\"{class}\" d=\"{}\"/>",
            path(points)
        );
    }

    /// The area within points.
    pub(super) fn area(&mut self, class: &str, points: &[(f64, f64)]) {
        let _ = write!(
            self.shapes,
            "<path class=\"{class}\" d=\"{}z\"/>",
            path(points)
        );
    }

    /// A bar from the ground, with a text for those who point at it.
    pub(super) fn bar(&mut self, left: f64, width: f64, height: f64, title: &str) {
        // Something is visible as soon as there is something.
        let height = (height * SIDE).max(if height > 0.0 { 6.0 } else { 0.0 });
        let _ = write!(
            self.shapes,
            "<rect class=\"bar\" x=\"{:.1}\" width=\"{:.1}\" y=\"{:.1}\" height=\"{height:.1}\">\
             <title>{}</title></rect>",
            left * SIDE,
            width * SIDE,
            SIDE - height,
            esc(title)
        );
    }

    /// A marker at a place with words above it, kept inside the chart.
    pub(super) fn dot(&mut self, class: &str, left: f64, bottom: f64, words: &str, side: Side) {
        let side = match side {
            Side::Left => " left",
            Side::Right => " right",
            Side::Middle if left > 0.75 => " left",
            Side::Middle if left < 0.15 => " right",
            Side::Middle => "",
        };
        let _ = write!(
            self.tags,
            "<span class=\"tag dot {class}{side}\" style=\"left:{};bottom:{}\"><span>{}</span></span>",
            css_percent(left),
            css_percent(bottom),
            esc(words)
        );
    }

    pub(super) fn finish(self) -> String {
        let Self {
            class,
            title,
            shapes,
            tags,
            y_labels,
            x_labels,
        } = self;
        format!(
            "<div class=\"frame {class}\"><div class=\"y\" aria-hidden=\"true\">{y_labels}</div>\
             <div class=\"area\"><svg viewBox=\"0 0 {SIDE} {SIDE}\" preserveAspectRatio=\"none\" \
             role=\"img\" aria-label=\"{title}\">{shapes}</svg>{tags}</div>\
             <div class=\"x\" aria-hidden=\"true\">{x_labels}</div></div>\n"
        )
    }
}

fn y(at: f64) -> String {
    format!("{:.1}", (1.0 - at) * SIDE)
}

fn path(points: &[(f64, f64)]) -> String {
    let mut out = String::new();
    for (index, (left, bottom)) in points.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        let _ = write!(out, "{command}{:.1} {}", left * SIDE, y(*bottom));
    }
    out
}
