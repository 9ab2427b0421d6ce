"""An extension of Metaflow, as a company has one: `@elsewhere` runs a step on a system of its own."""

CLIS_DESC = [("elsewhere", ".elsewhere_cli.cli")]
STEP_DECORATORS_DESC = [("elsewhere", ".decorators.ElsewhereDecorator"), ("noted", ".decorators.NotedDecorator")]
