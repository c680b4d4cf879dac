"""The commands of `headwater`, one module a family. They parse, call and print; the rules are in the other rooms."""
