"""Tables of text, for Markdown and for HTML."""


def numeric(rows):
    """For each column of `rows`, whether all cells below its heading are numbers or empty."""
    return [all(cell[:1] in "0123456789+-" for cell in column[1:]) for column in zip(*rows, strict=True)]


def markdown(rows):
    """`rows` of strings, headings first, as a Markdown table; columns of numbers are aligned to the right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    right = numeric(rows)

    def line(cells):
        return "| " + " | ".join(cell.rjust(width) if numbers else cell.ljust(width)
                                 for cell, width, numbers in zip(cells, widths, right, strict=True)) + " |"

    rule = ["-" * (n - 1) + (":" if numbers else "-") for n, numbers in zip(widths, right, strict=True)]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])]) + "\n"
