"""From evidence to verdict. One file per family of causes; each check ends confirmed or
suspected (a finding), ruled out, or not testable.
"""
