"""The dashboards as code; a build tool, see `stacks.grafana.build`."""
