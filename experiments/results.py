"""Regenerate docs/RESULTS.md from the files in results/, and from nothing else."""

from gengen.results import ROOT, table

if __name__ == "__main__":
    path = ROOT / "docs" / "RESULTS.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(table(ROOT / "results"))
    print(path)
