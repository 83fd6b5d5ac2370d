"""`projector config`: what is in force, and where each value came from."""

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, console, print_json


@app.command("config")
def show_config(config_file: ConfigFile = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """Show every setting in force and where it came from. Secrets are shown as ***.

    Example: [bold]projector config --set log=kafka --set kafka.bootstrap.servers=localhost:9092[/bold]
    """
    values = list(configured(config_file, settings).values())
    if as_json:
        print_json({value.name: {"value": value.value, "origin": value.origin} for value in values})
        return
    from rich.table import Table

    table = Table("setting", "value", "from", box=None)
    for value in values:
        table.add_row(value.name, str(value.value), value.origin)
    console().print(table)
