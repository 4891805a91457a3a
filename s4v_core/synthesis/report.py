def write_report(job):
    return ""
