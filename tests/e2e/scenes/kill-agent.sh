# the agent is killed with volumes under way: it goes on where it was

goes_on=1 killed_under_way agent KILL
