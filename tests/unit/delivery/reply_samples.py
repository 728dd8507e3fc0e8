"""Replies that real servers send, and what each has to mean. Addresses and hosts are examples.

`source` names the page, thread or source file that the text was taken from. A text marked "from
memory of" something was written down without looking it up again. Session ids are made up.
"""

from dataclasses import dataclass

from worker.delivery.ports import Phase, SmtpReply


@dataclass(frozen=True, slots=True)
class Sample:
    provider: str
    phase: Phase
    reply: SmtpReply
    end: str
    rule: str
    source: str


_GMAIL = "Google Workspace Admin Help, 'Gmail SMTP errors and codes'"
_GMAIL_MEMORY = "from memory of Gmail's replies"
_SES = "Amazon SES Developer Guide, 'SMTP Response Codes Returned by Amazon SES'"
_SES_MEMORY = "from memory of Amazon SES's replies"
_SES_QUOTA = "Amazon SES Developer Guide, 'Errors related to the sending quotas for your Amazon SES account'"
_EXCHANGE_MEMORY = "from memory of Exchange's replies"
_SENDGRID = "SendGrid docs, 'SMTP Errors and Troubleshooting'"
_ZONEMTA = "ZoneMTA, config/bounces.txt"
_SMTPD = "Postfix, src/smtpd/smtpd.c"
_POSTFIX = "from memory of Postfix's source"
_EXIM = "Exim, src/src/smtp_in.c"
_RFC = "RFC 5321 section 4.2.3"

_CONFIG = "config_fault config never"
_CONFIG_WAIT = "config_fault config soon"
_HOST = "config_fault local never"
_RECIPIENT = "refused recipient never"
_MESSAGE = "refused message never"
_SENDER = "refused config never"
_DAY = "deferred recipient day_then_permanent"
_LATER = "deferred recipient soon"
_SERVER = "deferred server soon"
_SPLIT = "deferred server split"
_SLOWER = "throttled server uncharged"
_QUOTA = "throttled config day_then_permanent"
_OK = "accepted message never"


def _sample(provider: str, phase: str, reply: str, end: str, rule: str, source: str) -> Sample:
    """`reply` as on the wire: "550-5.1.1 one" lines joined by newlines."""
    lines = reply.split("\n")
    return Sample(
        provider, Phase(phase), SmtpReply(int(lines[0][:3]), "\n".join(x[4:] for x in lines)), end, rule, source
    )


# fmt: off
SAMPLES: tuple[Sample, ...] = (
    # accepted
    _sample("Gmail", "final", "250 2.0.0 OK  1376056636 i3si9508927obz.16 - gsmtp", _OK, "accepted", _SENDGRID),
    _sample("Microsoft 365", "final",
            "250 2.6.0 <a1b2@example.com> [InternalId=105849469029151, Hostname=AS8PR07MB7669.eurprd07.prod.outlook.com] "
            "29353 bytes in 0.060, 472.320 KB/sec Queued mail for delivery", _OK, "accepted",
            "Postfix log lines in public repositories (InternalId search)"),
    _sample("Exchange", "final", "250 <4798911130a2069f3483fda756b8e81c@example.com> Queued mail for delivery", _OK,
            "accepted", _SENDGRID),
    _sample("Amazon SES", "final", "250 Ok 0100017b0e35a8c6-2021949e-71e7-4802-aa95-ae62b696b836-000000", _OK, "accepted",
            _SES),
    _sample("SendGrid", "final", "250 Ok: queued as 7fC3RpZ2Q8S1Vb-Ym1iCkA", _OK, "accepted",
            "from memory of a session with smtp.sendgrid.net"),
    _sample("Mailgun", "final", "250 Great success", _OK, "accepted", "smtptester.org, 'Mailgun SMTP test'"),
    _sample("Postfix", "final", "250 2.0.0 Ok: queued as 4F1ABC2D3E", _OK, "accepted", _POSTFIX),
    _sample("Exim", "final", "250 OK id=1rAbCd-0001xY-2z", _OK, "accepted", "from memory of Exim's source"),
    # what is positive, but hands nothing over
    _sample("any", "final", "354 Start mail input; end with <CRLF>.<CRLF>", "in_doubt server doubt",
            "final-reply-misplaced", _RFC),
    _sample("any", "final", "221 2.0.0 Service closing transmission channel", "in_doubt server doubt",
            "final-reply-misplaced", _RFC),
    _sample("Postfix", "rcpt", "250 2.1.5 Ok", _SERVER, "out-of-step", _POSTFIX),
    _sample("Microsoft 365", "auth", "334 VXNlcm5hbWU6", "config_fault server soon", "not-smtp",
            "pastebin 1j77m44f, a session that asks for the user name"),
    # protection and login
    _sample("Gmail", "mail", "530 5.7.0 Must issue a STARTTLS command first. a1sm123 - gsmtp", _CONFIG,
            "tls-demanded-for-good", _GMAIL_MEMORY),
    _sample("Gmail", "rcpt", "421 4.7.0 TLS required for RCPT domain, closing connection.", _CONFIG_WAIT, "tls-demanded",
            _GMAIL),
    _sample("Microsoft 365", "auth",
            "421 4.7.66 TLS 1.0 and 1.1 are not supported. Please upgrade/update your client to support TLS 1.2. "
            "Visit https://aka.ms/smtp_auth_tls.", _CONFIG_WAIT, "tls-demanded",
            "Microsoft docs, 'Opt in to the Exchange Online endpoint for legacy TLS clients using SMTP AUTH'"),
    _sample("Postfix", "tls", "502 5.5.1 Error: command not implemented", _CONFIG, "starttls-refused", _POSTFIX),
    _sample("Postfix", "tls", "454 4.7.0 TLS not available due to local problem", _SERVER, "starttls-not-now", _POSTFIX),
    _sample("any", "auth", "432 4.7.12 A password transition is needed", _CONFIG_WAIT, "password-transition",
            "RFC 4954 section 6"),
    _sample("Gmail", "auth",
            "535-5.7.8 Username and Password not accepted. Learn more at\n"
            "535 5.7.8 https://support.google.com/mail/?p=BadCredentials t66sm6271302pjb.45 - gsmtp", _CONFIG,
            "credentials-refused", "pastebin uXqSaYa4, a session with smtp.gmail.com"),
    _sample("Gmail", "auth",
            "534-5.7.9 Application-specific password required. Learn more at\n"
            "534 5.7.9 https://support.google.com/mail/?p=InvalidSecondFactor a1sm123 - gsmtp", _CONFIG,
            "credentials-refused", _GMAIL_MEMORY),
    _sample("Microsoft 365", "auth",
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.", _CONFIG,
            "credentials-refused", "bookyourpto docs, 'SMTP troubleshoot'"),
    _sample("Microsoft 365", "mail",
            "530 5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL FROM "
            "[AM6PR0732BE0065.eurprd07.prod.outlook.com]", _CONFIG, "credentials-refused",
            "easy365manager.com, 'Office 365 NDR error codes'"),
    _sample("Amazon SES", "auth", "535 Authentication Credentials Invalid", _CONFIG, "credentials-refused", _SES_MEMORY),
    _sample("Amazon SES", "mail", "530 Authentication required", _CONFIG, "credentials-refused",
            "pastebin t22G4F69, a bounce from email-smtp.us-east-1.amazonaws.com"),
    _sample("Mailgun", "auth", "535 5.7.0 Mailgun is not loving your login or password", _CONFIG, "credentials-refused",
            "a public repository's test of its mail logger"),
    _sample("Postfix", "auth", "535 5.7.8 Error: authentication failed: VXNlcm5hbWU6", _CONFIG, "credentials-refused",
            "go-mail documentation, a debug log"),
    _sample("Exim", "auth", "535 Incorrect authentication data", _CONFIG, "credentials-refused",
            "fail2ban's exim filter"),
    _sample("Exchange", "auth", "504 5.7.4 Unrecognized authentication type", _CONFIG, "login-refused",
            "from memory of Exchange's receive connector"),
    _sample("any", "mail", "525 5.7.13 User account disabled", _CONFIG, "login-demanded",
            "IANA SMTP Enhanced Status Codes registry"),
    _sample("mail.ru", "data",
            "503 Administrative prohibition -- authorization required. Users in your domain are not allowed to send "
            "email without authorization.", _CONFIG, "login-demanded-in-words", "pastebin xDPN2fTF, a session"),
    _sample("Amazon SES", "auth", "454 Temporary authentication failure", _SERVER, "login-deferred", _SES_MEMORY),
    _sample("Postfix", "auth", "454 4.7.0 Temporary authentication failure: Connection lost to authentication server",
            _SERVER, "login-deferred", "Postfix, src/smtpd/smtpd_sasl_glue.c"),
    _sample("Gmail", "auth", "454 4.7.0 Too many login attempts, please try again later. a1sm123 - gsmtp", _SLOWER,
            "throttled", _GMAIL_MEMORY),
    # the account
    _sample("SendGrid", "auth", "451 Authentication failed: Maximum credits exceeded", _CONFIG_WAIT, "account-stopped",
            "a runbook on 'SASL authentication failed; server smtp.sendgrid.net'"),
    _sample("Microsoft 365", "final", "550 5.7.705 Access denied, tenant has exceeded threshold", _CONFIG,
            "account-stopped-for-good", "Microsoft Learn, 'Fix NDR error 550 5.7.705'"),
    _sample("Amazon SES", "final", "554 Message rejected: Sending paused for this account. For more information, please "
            "check the inbox of the email address associated with your AWS account.", _CONFIG,
            "account-stopped-for-good", _SES_MEMORY),
    # the sender
    _sample("Gmail", "final",
            "550-5.7.26 Unauthenticated email from example.com is not accepted due to domain's\n"
            "550-5.7.26 DMARC policy. Please contact the administrator of example.com domain if\n"
            "550 5.7.26 this was a legitimate mail. a1si123 - gsmtp", _SENDER, "sender-unproven", _GMAIL_MEMORY),
    _sample("Exchange", "mail", "550 5.7.60 SMTP; Client does not have permissions to send as this sender", _CONFIG,
            "sender-not-granted", _EXCHANGE_MEMORY),
    _sample("Microsoft 365", "final", "554 5.2.252 SendAsDenied; ann@example.com not allowed to send as bob@example.com",
            _CONFIG, "sender-not-granted", "a Microsoft 365 'Send As' guide in a public repository"),
    _sample("Microsoft 365", "final",
            "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process "
            "message due to a permanent exception with message Cannot submit message.", _CONFIG, "sender-not-granted",
            "a German guide to sending through Office 365"),
    _sample("Amazon SES", "final",
            "554 Message rejected: Email address is not verified. The following identities failed the check in region "
            "EU-WEST-1: bob@example.com", _CONFIG, "sender-not-granted", "a repository's table of mail errors"),
    _sample("Amazon SES", "final",
            "554 Access denied: User `arn:aws:iam::111111111111:user/ses-smtp-user' is not authorized to perform "
            "`ses:SendRawEmail' on resource `arn:aws:ses:us-west-2:111111111111:identity/example.com'", _CONFIG,
            "sender-not-granted", "a Korean guide to SES SMTP credentials"),
    _sample("SendGrid", "final",
            "550 The from address does not match a verified Sender Identity. Mail cannot be sent until this error is "
            "resolved. Visit https://sendgrid.com/docs/for-developers/sending-email/sender-identity/ to see the Sender "
            "Identity requirements", _CONFIG, "sender-not-granted", "hackathon-starter issue 1083"),
    _sample("Mailgun", "final",
            "554 Sandbox subdomains are for test purposes only. Please add your own domain or add the address to "
            "authorized recipients in Account Settings.", _CONFIG, "sender-not-granted", "Webolith issue 219"),
    _sample("Mailgun", "data",
            "421 Domain mg.example.com is not allowed to send: Sandbox subdomains are for test purposes only. Please add "
            "your own domain or add the address to authorized recipients in Account Settings.", _CONFIG_WAIT,
            "sender-not-granted-yet", "swapmyvote issue 891"),
    _sample("Postfix", "rcpt",
            "553 5.7.1 <ann@example.com>: Sender address rejected: not owned by user bob@example.com", _CONFIG,
            "sender-not-granted", _POSTFIX),
    _sample("Microsoft 365", "final", "550 5.1.8 Access denied, bad outbound sender", _CONFIG,
            "account-stopped-for-good", _EXCHANGE_MEMORY),
    _sample("Exchange", "mail", "501 5.1.7 Invalid address", _CONFIG, "sender-address-bad", _EXCHANGE_MEMORY),
    # relaying
    _sample("Postfix", "rcpt", "554 5.7.1 <bob@example.com>: Relay access denied", _CONFIG, "relay-denied", _POSTFIX),
    _sample("Postfix", "rcpt", "454 4.7.1 <bob@example.com>: Relay access denied", _CONFIG_WAIT, "relay-denied-for-now",
            _POSTFIX),
    _sample("Exim", "rcpt", "550 relay not permitted", _CONFIG, "relay-denied", "from memory of Exim's default ACL"),
    _sample("sendmail", "rcpt", "550 5.7.1 <bob@example.com>... Relaying denied", _CONFIG, "relay-denied",
            "from memory of sendmail's proto.m4"),
    _sample("Exchange", "rcpt", "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain", _CONFIG,
            "relay-denied", "Sisimai, its table for Exchange"),
    _sample("Microsoft 365", "rcpt", "550 5.7.64 TenantAttribution; Relay Access Denied", _CONFIG, "relay-denied",
            "Sisimai, its table for Exchange"),
    # this host
    _sample("Proofpoint", "greeting", "554 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1",
            "config_fault local soon", "client-refused-at-greeting", "a scan result in a public repository"),
    _sample("Postfix", "rcpt",
            "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; "
            "https://www.spamhaus.org/query/ip/192.0.2.1", _HOST, "client-refused", _ZONEMTA),
    _sample("Yahoo", "mail",
            "553 5.7.2 [TSS09] All messages from 192.0.2.25 will be permanently deferred; Retrying will NOT succeed. "
            "See https://postmaster.yahooinc.com/error-codes", _HOST, "client-refused", "Sisimai, its table for Yahoo"),
    _sample("Gmail", "final",
            "550-5.7.1 [192.0.2.1       1] Our system has detected an unusual rate of\n"
            "550-5.7.1 unsolicited mail originating from your IP address. To protect our\n"
            "550-5.7.1 users from spam, mail sent from your IP address has been blocked.\n"
            "550 5.7.1 Bulk Email Senders Guidelines. q16si3475662wrs.311 - gsmtp", _HOST, "client-refused",
            "docker-mailman issue 303"),
    _sample("Microsoft 365", "rcpt", "550 5.7.606 Access denied, banned sending IP [192.0.2.1]. To request removal from "
            "this list please visit https://sender.office.com/", _HOST, "client-refused", _ZONEMTA),
    _sample("Gmail", "rcpt", "421 4.7.0 IP not in whitelist for RCPT domain, closing connection.",
            "config_fault local soon", "client-not-listed", _GMAIL),
    _sample("any", "greeting", "554 No SMTP service here", "config_fault server soon", "no-service",
            "RFC 5321 section 3.1"),
    _sample("Postfix", "ehlo", "502 5.5.2 Error: command not recognized", "config_fault server soon", "no-service",
            _POSTFIX),
    # too many recipients
    _sample("Postfix", "rcpt", "452 4.5.3 Error: too many recipients", _SPLIT, "too-many-recipients", _POSTFIX),
    _sample("Gmail", "rcpt",
            "452-4.5.3 Domain policy size per transaction exceeded, please try this recipient in\n"
            "452 4.5.3 a separate transaction. a1si123 - gsmtp", _SPLIT, "too-many-recipients", _GMAIL),
    _sample("Gmail", "rcpt", "451 4.3.0 Multiple destination domains per transaction is unsupported. Please try again.",
            _SPLIT, "too-many-recipients-in-words", _GMAIL),
    _sample("Exim", "rcpt", "452 too many recipients", _SPLIT, "too-many-recipients-in-words", _EXIM),
    _sample("Exim", "rcpt", "552 too many recipients", _SPLIT, "too-many-recipients-in-words", _EXIM),
    # slower
    _sample("Postfix", "rcpt",
            "450 4.2.0 <bob@example.com>: Recipient address rejected: Greylisted, see http://postgrey.example.com/help",
            _SERVER, "greylisted", "Mailprotector support, 'Common Email Bouncebacks'"),
    _sample("Gmail", "rcpt",
            "450-4.2.1 The user you are trying to contact is receiving mail too quickly.\n"
            "450 4.2.1 Please resend your message at a later time. a1si123 - gsmtp", _LATER, "recipient-rate", _GMAIL),
    _sample("Gmail", "rcpt",
            "550-5.2.1 The user you are trying to contact is receiving mail at a rate that\n"
            "550 5.2.1 prevents additional messages from being delivered. a1si123 - gsmtp", _DAY,
            "recipient-rate-refused", _GMAIL_MEMORY),
    _sample("Gmail", "rcpt", "450 4.2.1 Peak SMTP relay limit exceeded for customer. This is a temporary error.", _SLOWER,
            "throttled", _GMAIL),
    _sample("Gmail", "final",
            "421-4.7.28 [192.0.2.1       4] Our system has detected an unusual rate of\n"
            "421-4.7.28 unsolicited mail originating from your IP address. To protect our\n"
            "421-4.7.28 users from spam, mail sent from your IP address has been temporarily\n"
            "421 4.7.28 rate limited. z1si9679476pln.401 - gsmtp", _SLOWER, "throttled-by-policy",
            "mailinabox issue 1771"),
    _sample("Gmail", "ehlo", "421 4.7.0 Try again later, closing connection. (EHLO) a1sm123 - gsmtp", _SLOWER,
            "throttled-by-policy", _GMAIL),
    _sample("Gmail", "connect", "421 4.4.5 Server busy, try again later.", _SLOWER, "throttled-busy", _GMAIL),
    _sample("Gmail", "mail", "421 4.7.0 Temporary System Problem. Try again later.", _SERVER, "system-problem", _GMAIL),
    _sample("Yahoo", "mail",
            "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints "
            "- 4.16.55.1; see https://postmaster.yahooinc.com/error-codes", _SLOWER, "throttled-by-policy",
            "secuserve help, 'Deferred Yahoo / said: 421 4.7.0 [TSS04]'"),
    _sample("Yahoo", "connect", "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying will "
            "NOT succeed.", "deferred local soon", "deferred-for-good", "from memory of Yahoo's postmaster pages"),
    _sample("Microsoft 365", "final",
            "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending for more "
            "information. [Hostname=OS0PR01MB6099.jpnprd01.prod.outlook.com]", _SLOWER, "throttled-432",
            "fastapi-mail issue 75"),
    _sample("Microsoft 365", "final",
            "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded "
            "[Hostname=DM5SPR00MB2471.namprd08.prod.outlook.com]", _SLOWER, "throttled-432",
            "timeoff-management-application issue 308"),
    _sample("Microsoft 365", "mail", "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)", _SLOWER,
            "throttled-busy", "Microsoft Tech Community, 'Office365 throttling inbound messages S77719'"),
    _sample("Exchange", "connect",
            "421 4.3.2 The maximum number of concurrent connections has exceeded a limit, closing transmission channel",
            _SLOWER, "throttled", "Exchange's SmtpResponse.TooManyConnectionsPerSource"),
    _sample("Amazon SES", "final", "454 Throttling failure: Maximum sending rate exceeded", _SLOWER, "throttled",
            _SES_QUOTA),
    _sample("Amazon SES", "final", "454 Throttling failure: Daily message quota exceeded", _SLOWER, "throttled",
            _SES_QUOTA),
    _sample("Amazon SES", "connect", "421 Too many concurrent SMTP connections", _SLOWER, "throttled", _SES),
    _sample("SendGrid", "final", "451 You've exceeded your messaging limits", _SLOWER, "throttled",
            "WA-WF-Bot-Public issue 282"),
    _sample("SendGrid", "connect", "450 too frequent connects from 192.0.2.1, please try again later.", _SLOWER,
            "throttled", _SENDGRID),
    _sample("Postfix", "connect", "421 4.7.0 mail.example.com Error: too many connections from 192.0.2.1", _SLOWER,
            "throttled-by-policy", _POSTFIX),
    _sample("Postfix", "mail", "450 4.7.1 Error: too much mail from 192.0.2.1", _SLOWER, "throttled", _SMTPD),
    _sample("Gmail", "mail", "550 5.4.5 Daily user sending limit exceeded. For more information on Gmail sending limits "
            "go to https://support.google.com/a/answer/166852 a1sm123 - gsmtp", _QUOTA, "quota-spent", _GMAIL_MEMORY),
    _sample("Microsoft 365", "final",
            "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message",
            _QUOTA, "quota-spent", "OfficeDocs-Support issue 1150"),
    # the recipient
    _sample("Gmail", "rcpt",
            "550-5.1.1 The email account that you tried to reach does not exist. Please try\n"
            "550-5.1.1 double-checking the recipient's email address for typos or\n"
            "550 5.1.1 unnecessary spaces. a1si123 - gsmtp", _RECIPIENT, "recipient-unknown", _GMAIL_MEMORY),
    _sample("Postfix", "rcpt",
            "550 5.1.1 <bob@example.com>: Recipient address rejected: User unknown in relay recipient table", _RECIPIENT,
            "recipient-unknown", _POSTFIX),
    _sample("Exchange", "rcpt", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient bob@example.com not found by SMTP "
            "address lookup", _RECIPIENT, "recipient-unknown", _EXCHANGE_MEMORY),
    _sample("Yahoo", "final", "554 delivery error: dd This user doesn't have a example.com account (bob@example.com) [0]",
            _RECIPIENT, "recipient-unknown-in-words", _ZONEMTA),
    _sample("Microsoft 365", "rcpt",
            "550 5.4.1 Recipient address rejected: Access denied. [AM5EUR02FT019.eop-EUR02.prod.protection.outlook.com]",
            _RECIPIENT, "recipient-refused", _ZONEMTA),
    _sample("Microsoft 365", "final", "550 5.7.124 Sender not in allowed-senders list", _RECIPIENT,
            "recipient-restricted", _EXCHANGE_MEMORY),
    _sample("Gmail", "rcpt", "550 5.2.1 The email account that you tried to reach is disabled. a1si123 - gsmtp",
            _RECIPIENT, "mailbox-disabled", _GMAIL_MEMORY),
    _sample("Gmail", "rcpt", "552 5.2.2 The email account that you tried to reach is over quota. a1si123 - gsmtp", _DAY,
            "mailbox-full", _GMAIL_MEMORY),
    _sample("Exchange", "final", "554 5.2.2 mailbox full", _DAY, "mailbox-full", _EXCHANGE_MEMORY),
    _sample("Exim", "rcpt", "550 mailbox is full", _DAY, "mailbox-full-in-words", "from memory of an ACL that asks Dovecot for the quota"),
    _sample("any", "rcpt", "552 Requested mail action aborted: exceeded storage allocation", _DAY, "storage-exceeded",
            _RFC),
    _sample("Gmail", "rcpt", "452-4.2.2 The recipient's inbox is out of storage space. Please direct the\n"
            "452 4.2.2 recipient to Manage files in your Google Drive storage. a1si123 - gsmtp", _LATER,
            "mailbox-deferred", _GMAIL),
    _sample("any", "rcpt", "450 Requested mail action not taken: mailbox unavailable", _LATER, "recipient-deferred", _RFC),
    _sample("Postfix", "rcpt", "450 4.1.1 <bob@example.com>: Recipient address rejected: unverified address", _LATER,
            "mailbox-deferred", _POSTFIX),
    # the message
    _sample("Gmail", "final",
            "552-5.7.0 This message was blocked because its content presents a potential\n"
            "552-5.7.0 security issue. Please visit\n"
            "552 5.7.0 https://support.google.com/mail/?p=BlockedMessage to review. a1sm123 - gsmtp", _MESSAGE,
            "content-refused", "gophish issue 2921"),
    _sample("Microsoft 365", "final",
            "550 5.7.520 Message blocked because it contains content identified as spam. AS(4810)", _MESSAGE,
            "content-refused", "zulip issue 26721"),
    _sample("Yahoo", "final",
            "554 5.7.9 Message not accepted for policy reasons. See https://postmaster.yahooinc.com/error-codes", _MESSAGE,
            "message-refused", "from memory of Yahoo's postmaster pages"),
    _sample("Postfix", "mail", "552 5.3.4 Message size exceeds fixed limit", _MESSAGE, "message-too-big", _POSTFIX),
    _sample("Gmail", "final", "552-5.2.3 Your message exceeded Google's message size limits. Please visit\n"
            "552 5.2.3 https://support.google.com/mail/?p=MaxSizeError a1sm123 - gsmtp", _MESSAGE, "message-too-big",
            _GMAIL_MEMORY),
    _sample("Exim", "mail", "552 Message size exceeds maximum permitted", _MESSAGE, "message-too-big-in-words", _EXIM),
    _sample("Exchange", "final", "554 5.6.0 Invalid message content", _MESSAGE, "message-malformed", _EXCHANGE_MEMORY),
    _sample("Gmail", "final", "550 5.7.1 Messages missing a valid messageId header are not accepted. This message is not "
            "RFC 5322 compliant.", _MESSAGE, "message-malformed-in-words", _GMAIL_MEMORY),
    _sample("Postfix", "final", "521 5.5.2 mail.example.com Error: bare <LF> received", _MESSAGE,
            "message-malformed-in-words", _POSTFIX),
    # commands, and the rest
    _sample("Exim", "rcpt", "503 sender not yet given", _SERVER, "command-out-of-step", _EXIM),
    _sample("Exim", "mail", "501 ann: sender address must contain a domain", _SENDER, "sender-refused", _EXIM),
    _sample("Postfix", "rcpt", "501 5.1.3 Bad recipient address syntax", _RECIPIENT, "recipient-unknown", _POSTFIX),
    _sample("Postfix", "rcpt", "555 5.5.4 Unsupported option: NOTIFY=NEVER", _RECIPIENT, "recipient-refused", _POSTFIX),
    _sample("Postfix", "final", "550 5.7.1 Message rejected by header check", _MESSAGE, "message-refused", _POSTFIX),
    _sample("Postfix", "final", "451 4.3.0 Error: queue file write error", _SERVER, "server-deferred", _POSTFIX),
    _sample("Exim", "mail", "452 Space shortage, please try later", _SERVER, "server-deferred", _EXIM),
    _sample("Amazon SES", "data", "451 Timeout waiting for data from client", _SERVER, "server-deferred", _SES),
    _sample("Amazon SES", "final", "451 Temporary service failure", _SERVER, "server-deferred", _SES),
    _sample("Gmail", "mail", "451 4.3.0 Mail server temporarily rejected message. a1si123 - gsmtp", _SERVER,
            "server-deferred", _GMAIL),
    _sample("Postfix", "mail", "421 4.4.2 mail.example.com Error: timeout exceeded", _SERVER, "server-deferred", _POSTFIX),
)
# fmt: on
