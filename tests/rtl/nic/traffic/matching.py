"""Do counters tell what was seen? Where timing leaves a choice, some choice must fit."""


def assigned(items, counts):
    """The number of `items` that can each have a unit of a count to itself.

    `items`: sets of outcomes, one of which each item had. `counts`: outcome to number. The method
    is augmenting paths (Kuhn), by outcome.
    """
    holders = {outcome: [] for outcome in counts}

    def place(item, tried):
        for outcome in sorted(items[item] - tried):
            if not counts.get(outcome):
                continue
            tried.add(outcome)
            held = holders[outcome]
            if len(held) < counts[outcome]:
                held.append(item)
                return True
            for k, other in enumerate(held):
                if place(other, tried):
                    held[k] = item
                    return True
        return False

    return sum(place(item, set()) for item in range(len(items)))


def explain(certain, possible, counts, what):
    """`certain` items had an outcome each, `possible` ones one at most, and nothing else had any.

    Both are lists of (set of outcomes, description). If all that is certain can be assigned, and
    every unit of the counts too, then both at once can be (Mendelsohn and Dulmage).
    """
    counts = {outcome: n for outcome, n in counts.items() if n}
    sets = [allowed for allowed, _ in certain]
    if assigned(sets, counts) < len(sets):
        for k in range(len(sets)):
            if assigned(sets[: k + 1], counts) < k + 1:
                raise AssertionError(
                    f"{what}: {certain[k][1]} must be one of {named(sets[k])}; counted is"
                    f" {named(counts)}, and the others have their outcomes"
                )
    total = sum(counts.values())
    fit = assigned(sets + [allowed for allowed, _ in possible], counts)
    if fit < total:
        summary = {}
        for allowed, _ in (*certain, *possible):
            key = named(allowed)
            summary[key] = summary.get(key, 0) + 1
        raise AssertionError(
            f"{what}: {total} outcomes were counted, {fit} can be explained; counted is"
            f" {named(counts)}; what there was: {summary}"
        )


def named(outcomes):
    """Outcomes, or counts by outcome, in words."""
    if isinstance(outcomes, dict):
        return ", ".join(f"{label(o)} {n}" for o, n in sorted(outcomes.items())) or "nothing"
    return " or ".join(label(o) for o in sorted(outcomes)) or "nothing"


def label(outcome):
    """Name of an outcome; with a row, the row too."""
    if isinstance(outcome, tuple):
        return f"{outcome[0]}:{outcome[1].name}"
    return outcome.name
