"""Dashboards as Grafana reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from headrace.observe.monitoring.description import (
    Annotation,
    Column,
    Dashboard,
    Panel,
    Query,
    Row,
    Threshold,
    Variable,
)
from headrace.observe.monitoring.queries import with_prefix

SCHEMA_VERSION = 38
"""Grafana 10.1's. Newer ones bring it to theirs."""

TAG = "headrace"
COLUMNS = 24

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def render(dashboard: Dashboard, prefix: str) -> Json:
    """A dashboard's JSON. `prefix`: of the names of Headrace's metrics."""
    return {
        "annotations": {"list": [_built_in(), *(_annotation(marked, prefix) for marked in dashboard.annotations)]},
        "description": dashboard.description,
        "editable": True,
        "graphTooltip": 1,  # one cross hair for all panels
        "links": [_links()],
        "panels": list(_laid_out(dashboard.rows, prefix)),
        "refresh": "10s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": [TAG],
        "templating": {"list": [_data_source(), *(_variable(one, prefix) for one in dashboard.variables), _filters()]},
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "title": dashboard.title,
        "uid": dashboard.uid,
        "version": 1,
    }


def _laid_out(rows: Sequence[Row], prefix: str) -> Iterator[Json]:
    """Panels from left to right and from top to bottom, each row under its heading."""
    number = y = 0
    for row in rows:
        number += 1
        heading: Json = {
            "collapsed": row.collapsed,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
            "id": number,
            "panels": [],
            "title": row.title,
            "type": "row",
        }
        y += 1
        inside: list[Json] = []
        x = height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            number += 1
            inside.append(_panel(panel, number, {"h": panel.height, "w": panel.width, "x": x, "y": y}, prefix))
            x, height = x + panel.width, max(height, panel.height)
        y += height
        if row.collapsed:
            yield {**heading, "panels": inside}
        else:
            yield heading
            yield from inside


def _panel(panel: Panel, number: int, place: Json, prefix: str) -> Json:
    drawn = {"timeseries": _time_series, "stat": _stat, "table": _table, "heatmap": _heatmap}[panel.kind](panel)
    return {
        "datasource": _SOURCE,
        "description": panel.description,
        "gridPos": place,
        "id": number,
        "targets": [_target(query, chr(ord("A") + index), panel, prefix) for index, query in enumerate(panel.queries)],
        "title": panel.title,
        "type": panel.kind,
        **drawn,
    }


def _target(query: Query, letter: str, panel: Panel, prefix: str) -> Json:
    instant = panel.kind == "table"
    return {
        "datasource": _SOURCE,
        "editorMode": "code",
        "expr": with_prefix(query.expression, prefix),
        "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
        "instant": instant,
        "legendFormat": query.legend or "__auto",
        "range": not instant,
        "refId": letter,
    }


def _time_series(panel: Panel) -> Json:
    custom = {
        "drawStyle": "line",
        "fillOpacity": 25 if panel.stacked else 8,
        "lineInterpolation": "linear",
        "lineWidth": 2,  # seen from across the room
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if panel.thresholds else "off"},
    }
    defaults = {
        "color": {"mode": "palette-classic"},
        "custom": custom,
        "min": 0,
        "thresholds": _thresholds(panel.thresholds),
        "unit": panel.unit,
    }
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    return {
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {
                "calcs": ["lastNotNull", "max"],
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "sortBy": "Max",
                "sortDesc": True,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _stat(panel: Panel) -> Json:
    defaults = {"color": {"mode": "thresholds"}, "thresholds": _thresholds(panel.thresholds), "unit": panel.unit}
    return {
        "fieldConfig": {"defaults": {**defaults, "min": 0, "noValue": "–"}, "overrides": []},
        "options": {
            "colorMode": "background" if panel.thresholds else "value",
            "graphMode": "area",
            "justifyMode": "center",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "value",
        },
    }


def _heatmap(panel: Panel) -> Json:
    return {
        "fieldConfig": {"defaults": {"custom": {"scaleDistribution": {"type": "linear"}}}, "overrides": []},
        "options": {
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "steps": 64, "reverse": False},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"show": True, "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": panel.unit},
        },
    }


def _table(panel: Panel) -> Json:
    letters = [chr(ord("A") + index) for index in range(len(panel.columns))]
    named = {f"Value #{letter}": column.title for letter, column in zip(letters, panel.columns, strict=True)}
    order = ["application", "deployment", *named]
    return {
        "fieldConfig": {
            "defaults": {"custom": {"align": "auto", "filterable": True}, "unit": "short"},
            "overrides": [
                _override("Deployment", {"links": [_to_deployment()]}),
                *(_override(column.title, _cells(column)) for column in panel.columns),
            ],
        },
        "options": {"cellHeight": "sm", "showHeader": True, "sortBy": [{"desc": False, "displayName": "Status"}]},
        "transformations": [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "indexByName": {name: index for index, name in enumerate(order)},
                    "renameByName": {"application": "Application", "deployment": "Deployment", **named},
                },
            },
        ],
    }


def _override(title: str, properties: Json) -> Json:
    return {
        "matcher": {"id": "byName", "options": title},
        "properties": [{"id": name, "value": value} for name, value in properties.items()],
    }


def _cells(column: Column) -> Json:
    cells: Json = {"unit": column.unit}
    if column.thresholds or column.texts:
        cells["custom.cellOptions"] = {"type": "color-text"}
        cells["thresholds"] = _thresholds(column.thresholds)
    if column.texts:
        told = {str(value): {"text": text, "color": color} for value, (text, color) in column.texts.items()}
        cells["mappings"] = [{"type": "value", "options": told}]
    return cells


def _thresholds(steps: Sequence[Threshold]) -> Json:
    return {
        "mode": "absolute",
        "steps": [{"color": "green", "value": None}, *({"color": s.color, "value": s.value} for s in steps)],
    }


def _to_deployment() -> Json:
    chosen = "&".join(
        f"var-{name}=${{__data.fields.{title}}}"
        for name, title in (("application", "Application"), ("deployment", "Deployment"))
    )
    return {
        "targetBlank": False,
        "title": "Look at ${__value.text}",
        "url": f"/d/headrace-deployment?{chosen}&${{__url_time_range}}",
    }


def _links() -> Json:
    """To the other dashboards, with the same time and the same choice."""
    return {
        "asDropdown": False,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "tags": [TAG],
        "targetBlank": False,
        "title": "",
        "tooltip": "",
        "type": "dashboards",
        "url": "",
    }


def _data_source() -> Json:
    return {
        "current": {},
        "hide": 0,
        "includeAll": False,
        "label": "Data source",
        "multi": False,
        "name": "datasource",
        "options": [],
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
        "type": "datasource",
    }


def _variable(variable: Variable, prefix: str) -> Json:
    where = f"{{{variable.where}}}" if variable.where else ""
    values = f"label_values({with_prefix(variable.metric, prefix)}{where}, {variable.label})"
    return {
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": _SOURCE,
        "definition": values,
        "hide": 0,
        "includeAll": True,
        "label": variable.title,
        "multi": True,
        "name": variable.name,
        "options": [],
        "query": {"query": values, "refId": f"Values-of-{variable.name}"},
        "refresh": 2,  # with the time range: what is deployed changes
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
        "type": "query",
    }


def _filters() -> Json:
    """Any other label, such as `instance`, `namespace` or `cluster`."""
    return {
        "baseFilters": [],
        "datasource": _SOURCE,
        "filters": [],
        "hide": 0,
        "label": "Filters",
        "name": "filters",
        "skipUrlSync": False,
        "type": "adhoc",
    }


def _built_in() -> Json:
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }


def _annotation(marked: Annotation, prefix: str) -> Json:
    return {
        "datasource": _SOURCE,
        "enable": marked.shown,
        "expr": with_prefix(marked.query.expression, prefix),
        "hide": False,
        "iconColor": marked.color,
        "name": marked.title,
        "step": "15s",
        "tagKeys": "",
        "textFormat": marked.query.legend,
        "titleFormat": marked.title,
    }
